"""The processes that relay: this one alone, or the workers of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from datapath.data_plane_types import Server
from sidecar.observability.counters import ConnectionCounters
from sidecar.observability.metrics import Workers
from sidecar.workers.pool import WorkerPool


class RelayProcesses:
    """Their number, counters and health, available at any time."""

    def __init__(self, server: Callable[[], Server | None], others: tuple[ConnectionCounters, ...] = ()) -> None:
        """``server`` returns the current handler of captured connections; ``others`` are counters updated by other
        threads."""
        self._server = server
        self._others = others

    def workers(self) -> Workers:
        """The number of workers, and the counters of other processes and threads."""
        pool = self._pool
        workers = Workers() if pool is None else pool.workers
        return replace(workers, counters=(*workers.counters, *self._others))

    async def ask(self) -> list[int]:
        """Ask the workers for their counters; return the numbers of those that do not answer."""
        pool = self._pool
        return [] if pool is None else await pool.ask()

    async def maintain(self) -> None:
        """Replace workers that have not answered for too long."""
        if (pool := self._pool) is not None:
            await pool.maintain()

    @property
    def _pool(self) -> WorkerPool | None:
        server = self._server()
        return server if isinstance(server, WorkerPool) else None
