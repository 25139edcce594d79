"""The admin server's read-only routes, for the documents of :mod:`daemon.documents`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from daemon.admin_server import Handler, Query, Reply
from daemon.documents.codec import to_json
from daemon.documents.health import NOT_READY, READY, Health
from daemon.prometheus_text import CONTENT_TYPE
from datapath.data_plane import DataPlane
from datapath.documents.classes import Process, classes_document
from datapath.documents.connections import connections_asked, connections_document
from sidecar.observability.metrics import Metrics

_FRESH: Final = 0.1
"""Seconds for which the counters are cached for ``/classes``, so that many requests cost no more than one."""


class AdminApi:
    """Serves the documents of one data plane and its relaying processes."""

    def __init__(
        self,
        plane: DataPlane,
        metrics: Metrics,
        *,
        source: Mapping[str, str],
        ask_workers: Callable[[], Awaitable[list[int]]],
        notes: Callable[[], Iterable[str | None]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``source`` names the policy's files.

        ``ask_workers`` requests the workers' counters, and returns the numbers of those that do not answer. ``notes``
        return the remarks for ``/healthz``; None and empty ones are omitted. The uptime starts now, in seconds of
        ``clock``.
        """
        self._plane = plane
        self._metrics = metrics
        self._source = source
        self._ask_workers = ask_workers
        self._notes = notes
        self._clock = clock
        self._began = clock()

    def handlers(self, ready: Callable[[], bool]) -> dict[str, Handler]:
        """The handler of each path. ``ready``: whether everything is in force."""
        return {
            "/metrics": lambda _: self._metrics_reply(),
            "/healthz": lambda _: self._health(),
            "/readyz": lambda _: Reply.text(200, READY) if ready() else Reply.text(503, NOT_READY),
            "/classes": lambda _: self._classes_reply(),
            "/policy": lambda _: self._policy_reply(),
            "/connections": self._connections_reply,
        }

    def classes(self) -> dict[str, object]:
        """The document of ``/classes``: limits, counters and connections of every class, as plain data."""
        status = self._plane.status()
        uptime = self._clock() - self._began
        process = Process(status.capture.datapath, uptime, self._metrics.workers().present, status.read_at)
        document: dict[str, object] = to_json(
            classes_document(
                status.interface,
                status.policy.total,
                status.snapshots,
                self._metrics.sum().counts,
                process,
                status.received,
            )
        )
        return document

    async def _metrics_reply(self) -> Reply:
        await self._ask_workers()
        return Reply(200, CONTENT_TYPE, self._metrics.render())

    async def _classes_reply(self) -> Reply:
        await self._ask_workers()
        await self._plane.refresh(_FRESH)
        return Reply.json(self.classes())

    async def _policy_reply(self) -> Reply:
        from datapath.documents.policy import Arriving, policy_document

        s = self._plane.status()
        sent, received = await self._plane.classes_in_kernel()
        arriving = Arriving(received, s.ingress_classifier, s.limits)
        document = policy_document(s.interface, self._source, s.policy, s.ids, sent, s.capture, arriving)
        return Reply.json(to_json(document))

    async def _connections_reply(self, query: Query) -> Reply:
        limit, order = connections_asked(query)
        shown = await self._plane.connections(limit, order)
        return Reply.json(to_json(connections_document(shown, order)))

    async def _health(self) -> Reply:
        missing = await self._ask_workers()
        health = Health(tuple(missing), self._plane.repairs.lost, tuple(filter(None, self._notes())))
        return Reply.text(health.status, health.text)
