"""Readiness for admission reviews; ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.http import Handler, HttpRequest, HttpResponse
from daemon.log import Logger
from daemon.prometheus_text import CONTENT_TYPE
from injector.server.metrics import InjectorMetrics

log = Logger()


class Readiness:
    """The problems that prevent readiness, by part; ready if there are none. Each part calls :meth:`report`."""

    def __init__(self, metrics: InjectorMetrics, *parts: str) -> None:
        self._metrics = metrics
        self._missing = {part: f"the {part} is not there yet" for part in parts}

    @property
    def ready(self) -> bool:
        return not self._missing

    def report(self, part: str, trouble: str | None) -> None:
        """``trouble`` prevents readiness; None: this part is in order."""
        was = self.ready
        if trouble is None:
            self._missing.pop(part, None)
        else:
            self._missing[part] = trouble
        self._metrics.ready = self.ready
        if self.ready != was:
            log.info("ready") if self.ready else log.info("not ready", because=trouble)

    def arrived(self, part: str, trouble: str | None) -> None:
        """As :meth:`report`, but a part that was once in order stays so: its last state is still usable."""
        if trouble is None or part in self._missing:
            self.report(part, trouble)

    def explain(self) -> str:
        return "; ".join(f"{part}: {trouble}" for part, trouble in self._missing.items())


def health_handlers(readiness: Readiness) -> Mapping[str, Handler]:
    """For probes. An answer proves that the event loop runs, which is all that ``/healthz`` reports."""

    async def healthz(_request: HttpRequest) -> HttpResponse:
        return HttpResponse.text(200, "ok")

    async def readyz(_request: HttpRequest) -> HttpResponse:
        return (
            HttpResponse.text(200, "ok")
            if readiness.ready
            else HttpResponse.text(503, f"not ready: {readiness.explain()}")
        )

    return {"/healthz": healthz, "/readyz": readyz}


def metrics_handler(metrics: InjectorMetrics) -> Mapping[str, Handler]:
    async def render(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, CONTENT_TYPE, metrics.render())

    return {"/metrics": render}
