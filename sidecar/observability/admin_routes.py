"""What the admin server answers of a running sidecar: the part of :class:`sidecar.app.sidecar.Sidecar` that only
reads."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import trio

from daemon.documents.codec import to_json
from daemon.documents.health import NOT_READY, READY, Health
from daemon.prometheus_text import CONTENT_TYPE
from datapath.connection_list import Shown
from datapath.netfilter.ruleset import CaptureSettings
from datapath.quic_classifier import QuicReader
from datapath.shaping import Shaping
from datapath.stepaside.server import StepAside
from sidecar.config.loader import Wanted
from sidecar.config.reload_status import PolicyState
from sidecar.config.settings import SidecarSettings
from sidecar.observability.admin_server import Handler, Query, Reply
from sidecar.observability.counters import Tallies
from sidecar.observability.documents import (
    POLICY_SOURCES,
    Process,
    classes_document,
    connections_asked,
    connections_document,
)
from sidecar.observability.metrics import Crew, Metrics
from sidecar.proxy.server import ProxyServer
from sidecar.workers.pool import WorkerPool
from traffic_policy.errors import PodlaneError
from traffic_policy.policy import TrafficPolicy

_T = TypeVar("_T")
_FRESH: Final = 0.1
"""Seconds for which counters that were read answer ``/classes``, so that many who ask cost no more than one."""


class Answers(Protocol):
    """Methods for a sidecar that has these attributes."""

    settings: SidecarSettings
    policy: TrafficPolicy
    policy_state: PolicyState
    shaping: Shaping
    metrics: Metrics
    ready: bool
    _wanted: Wanted
    _server: ProxyServer | WorkerPool | StepAside | None
    _quic: QuicReader
    _quic_tallies: Tallies
    _in_thread: trio.CapacityLimiter
    _began: float

    def _blocking(self, call: Callable[[], _T]) -> Awaitable[_T]: ...

    def _sample(self) -> None: ...

    def _capture_settings(self) -> CaptureSettings: ...

    def _admin_handlers(self) -> dict[str, Handler]:
        return {
            "/metrics": lambda _: self._metrics_reply(),
            "/healthz": lambda _: self._health(),
            "/readyz": lambda _: Reply.text(200, READY) if self.ready else Reply.text(503, NOT_READY),
            "/classes": lambda _: self._classes_reply(),
            "/policy": lambda _: self._policy_reply(),
            "/connections": self._connections_reply,
        }

    async def _metrics_reply(self) -> Reply:
        await self._ask_workers()
        return Reply(200, CONTENT_TYPE, self.metrics.render())

    async def _classes_reply(self) -> Reply:
        await self._ask_workers()
        read_at = self.shaping.read_at
        if (read_at is None or time.monotonic() - read_at > _FRESH) and self._in_thread.available_tokens:
            # The interface may be gone: then what was last read has to do.
            with suppress(PodlaneError):
                await self._blocking(self._sample)
        return Reply.json(self.classes_document())

    async def _policy_reply(self) -> Reply:
        from sidecar.observability.policy_document import Arriving, policy_document

        policy, ids, settings = self.policy, self.shaping.ids, self._capture_settings()
        source = {name: str(path) for name in POLICY_SOURCES if (path := getattr(self.settings, name)) is not None}
        kernel = await self._blocking(self.shaping.classes_in_force)
        arriving = Arriving(
            await self._blocking(self.shaping.received_in_force), self.shaping.teller, self.shaping.paced(policy, ids)
        )
        document = policy_document(self.shaping.interface, source, policy, ids, kernel, settings, arriving)
        return Reply.json(to_json(document))

    async def _connections_reply(self, query: Query) -> Reply:
        limit, order = connections_asked(query)
        shown = Shown(0, [])
        if isinstance(self._server, ProxyServer):
            shown = self._server.connections(limit, order)
        elif self._server is not None:
            shown = await self._server.connections(limit, order)
        shown = await self._quic.beside(shown, limit, order)
        return Reply.json(to_json(connections_document(shown, order)))

    async def _health(self) -> Reply:
        missing = await self._ask_workers()
        notes = (self.policy_state.problem, self._quic.problem, *self._wanted.warnings)
        health = Health(tuple(missing), tuple(filter(None, notes)))
        return Reply.text(health.status, health.text)

    async def _ask_workers(self) -> list[int]:
        """Have the workers say what they have counted; gives the numbers of those that do not."""
        return await self._server.ask() if isinstance(self._server, WorkerPool) else []

    def _crew(self) -> Crew:
        crew = self._server.crew if isinstance(self._server, WorkerPool) else Crew()
        return replace(crew, tallies=(*crew.tallies, self._quic_tallies)) if self._quic.used else crew

    def classes_document(self) -> dict[str, object]:
        """Limits, counters and connections of every class, as plain data."""
        uptime = time.monotonic() - self._began
        process = Process(self.settings.datapath, uptime, self._crew().present, self.shaping.read_at)
        document: dict[str, object] = to_json(
            classes_document(
                self.shaping.interface,
                self.policy.total,
                self.shaping.snapshots,
                self.metrics.sum().connections,
                process,
                self.shaping.received,
            )
        )
        return document
