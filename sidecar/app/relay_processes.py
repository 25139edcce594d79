"""The processes that relay: this one alone, or the workers of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from datapath.data_plane_types import Server
from sidecar.observability.counters import ConnectionCounters
from sidecar.observability.metrics import Workers
from sidecar.workers.pool import WorkerPool


class RelayProcesses:
    """What there is to know of them, at any time."""

    def __init__(self, server: Callable[[], Server | None], others: tuple[ConnectionCounters, ...] = ()) -> None:
        """``server`` gives what handles captured connections now; ``others`` are counted in by other threads."""
        self._server = server
        self._others = others

    def workers(self) -> Workers:
        """How many there are, and what those that are not this one have counted; other threads, too."""
        pool = self._pool
        workers = Workers() if pool is None else pool.workers
        return replace(workers, counters=(*workers.counters, *self._others))

    async def ask(self) -> list[int]:
        """Have the workers say what they have counted; gives the numbers of those that do not."""
        pool = self._pool
        return [] if pool is None else await pool.ask()

    async def maintain(self) -> None:
        """Replace workers that have not answered for long."""
        if (pool := self._pool) is not None:
            await pool.maintain()

    @property
    def _pool(self) -> WorkerPool | None:
        server = self._server()
        return server if isinstance(server, WorkerPool) else None
