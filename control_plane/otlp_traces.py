"""Tells an OpenTelemetry collector of changes, by OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/)."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager
from threading import Lock
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from control_plane.tracing import Ended
from daemon.version import installed_version

_PATIENCE: Final = 2.0
"""Seconds for a batch, with all that is tried again: the process' end waits for the last one."""
_REMEMBERED: Final = 1000
"""Positions whose requests are known: what follows from them comes within a second."""


class OtlpTraces:
    """A :class:`~control_plane.tracing.ChangeTraces`. Sends in a thread of its own, and drops what is too much."""

    def __init__(self, url: str) -> None:
        """``url`` of the collector, as http://localhost:4318."""
        about = Resource.create(
            {"service.name": "podlane-control-plane", "service.version": installed_version() or "source"}
        )
        self._provider = TracerProvider(resource=about)
        exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=_PATIENCE)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("podlane")
        self._commands: OrderedDict[tuple[str, int], Context] = OrderedDict()
        self._lock = Lock()

    def request(self, method: str, path: str, parent: str) -> AbstractContextManager[Span]:
        known = TraceContextTextMapPropagator().extract({"traceparent": parent})
        about = {"http.request.method": method, "url.path": path}
        return self._tracer.start_as_current_span(method, known, SpanKind.SERVER, about)

    def command(self, tenant: str, name: str) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(f"command {name}", attributes={"podlane.tenant": tenant})

    def append(self, tenant: str) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span("append", attributes={"podlane.tenant": tenant})

    def appended(self, tenant: str, first: int, last: int) -> None:
        span = get_current_span()
        span.set_attributes({"podlane.position.first": first, "podlane.position.last": last})
        with self._lock:
            for position in range(first, last + 1):
                self._commands[tenant, position] = set_span_in_context(span)
            while len(self._commands) > _REMEMBERED:
                self._commands.popitem(last=False)

    def project(self, tenant: str, first: int, last: int) -> AbstractContextManager[Span]:
        about: dict[str, str | int] = {"podlane.tenant": tenant, "podlane.position.last": last}
        return self._tracer.start_as_current_span("project", self._command(tenant, first), attributes=about)

    def deliver(self, tenant: str, position: int, agents: int) -> Ended:
        about: dict[str, str | int] = {
            "podlane.tenant": tenant,
            "podlane.revision": position,
            "podlane.agents": agents,
        }
        span = self._tracer.start_span("deliver", self._command(tenant, position), SpanKind.PRODUCER, about)

        def ended(left: int) -> None:
            span.set_attribute("podlane.agents.silent", left)
            span.end()

        return ended

    def close(self) -> None:
        self._provider.shutdown()

    def _command(self, tenant: str, position: int) -> Context:
        """That of the command whose event is at a position; an empty one if another process has carried it out."""
        with self._lock:
            return self._commands.get((tenant, position), Context())
