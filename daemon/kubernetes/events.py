"""Events on objects: ``kubectl describe`` shows them.

Nobody waits for them. A happening is left in a bounded table, and one task writes from that, one request at a time.
What does not fit is dropped.

They are Events of core/v1, as Kubernetes' own controllers write them (k8s.io/client-go/tools/record). They are written
by server-side apply: that makes an Event and changes it by the same request, also when the API server has deleted it
meanwhile, and a repeated request does no harm.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, event
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.kubernetes.event_series import EventSeries, Happening, Series
from daemon.log import Logger
from traffic_policy.errors import shortened

_SPACING: Final = 0.1
"""Seconds between two requests: Events of a busy cluster must not become a load for its API server."""
_LONGEST_MESSAGE: Final = 1000
"""Characters of a message: events.k8s.io/v1 has at most 1024 (NoteLengthLimit in k8s.io/kubernetes)."""
_LONGEST_NAME: Final = 230
"""Characters of an object's name in the name of an Event, which has 253 at most."""
_PASSING: Final = (0, 408, 409, 429)
"""Status codes of failures that may go by, beside those from 500 on; 0: there was no answer."""

log_some = Logger(spacing=60.0)


def event_message(text: str) -> str:
    """A text as one line of a length that an Event can have."""
    line = shortened(" ".join(text.split()), _LONGEST_MESSAGE - len(" ... "))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


class EventWriter:
    """Events of one program. :meth:`run` writes them."""

    def __init__(self, api: ApiServer, component: str, wrote: Callable[[str], None] = lambda _: None) -> None:
        """``component`` is who tells. ``wrote`` is called with written, failed or dropped, for the metrics."""
        self._api = api
        self._component = component
        self._wrote = wrote
        self._series = EventSeries()
        self._added = trio.Event()
        self._instance = socket.gethostname()[:128]

    def add(self, happening: Happening) -> None:
        """Take note of a happening, to be written later."""
        if self._series.add(happening, trio.current_time(), datetime.now(UTC)):
            self._added.set()
        else:
            self._wrote("dropped")

    async def run(self) -> None:
        """Write what is added, until cancelled."""
        while True:
            self._added = trio.Event()
            series = self._series.next()
            if series is None:
                await self._added.wait()
            elif series.due > trio.current_time():
                with trio.move_on_at(series.due):
                    await self._added.wait()
            else:
                await self._write(series)
                await trio.sleep(_SPACING)

    async def _write(self, series: Series) -> None:
        count = series.count
        try:
            document = event_document(series, self._component, self._instance)
            await self._api.apply(event(series.happening.namespace, document["metadata"]["name"]), document)
        except NotFoundError:
            self._wrote("dropped")  # the namespace is gone
        except ApiError as error:
            self._wrote("failed")
            log_some.warning("an Event cannot be written", namespace=series.happening.namespace, error=str(error))
            if error.status in _PASSING or error.status >= 500:
                self._series.failed(series, trio.current_time())
                return
        else:
            self._wrote("written")
        self._series.wrote(series, count, trio.current_time())


def event_document(series: Series, component: str, instance: str) -> Mapping[str, Any]:
    """The Event (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ has both forms)."""
    happening = series.happening
    about = happening.about
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:_LONGEST_NAME].rstrip('.-')}.{series.id}",
            "namespace": happening.namespace,
        },
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "name": about.name,
            "namespace": happening.namespace,
            "uid": about.uid,
        },
        "type": "Warning" if happening.is_warning else "Normal",
        "reason": happening.reason,
        "message": happening.message,
        "source": {"component": component, "host": instance},
        "reportingComponent": component,
        "reportingInstance": instance,
        "firstTimestamp": _time(series.first),
        "lastTimestamp": _time(series.last),
        "count": series.count,
    }


def _time(when: datetime) -> str:
    """RFC 3339, in whole seconds as metav1.Time has them."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
