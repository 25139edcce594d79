"""All workers together: the interface of a :class:`~sidecar.proxy.server.ProxyServer`, on several processes.

A *place* is a listener and the worker that accepts from it. A worker that dies is replaced in its place, with the
policy in force; meanwhile new connections wait in the backlog of its listener. See :mod:`sidecar.workers`.
"""

from __future__ import annotations

import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from socket import SocketType
from typing import Final

import trio

from daemon.errors import single
from daemon.log import Logger
from datapath.connection_list import ConnectionPage, Order, select_connections
from datapath.routing.cached import Routing
from sidecar.errors import WorkersError
from sidecar.observability.counters import ConnectionCounters
from sidecar.observability.metrics import Workers
from sidecar.proxy.server import ServerSettings
from sidecar.transport.kernel_sockets import shared_listeners
from sidecar.workers.forkserver import ForkServer, HasDescriptor
from sidecar.workers.handle import WorkerHandle
from sidecar.workers.messages import Ask, Begin, Drain, Follow
from sidecar.workers.sizing import shares
from traffic_policy.settings import LogFormat, LogLevel
from traffic_policy.units import Duration

log = Logger()

_ANSWER_S: Final = 1.0
"""A worker answers between two rounds of its loop, 5 ms at most; a slower one is in trouble."""
_FOLLOW_S: Final = 5.0
"""... but a new policy may wait so long for the last worker, which is then replaced."""
_STUCK_S: Final = 10.0
"""A worker that has not answered for so long is replaced: new connections wait in its backlog in vain."""
_DRAIN_MARGIN_S: Final = 5.0
"""Seconds after the grace period for resetting the remaining connections."""
_MOST_DEATHS: Final = 5
_DEATHS_WINDOW_S: Final = 60.0
"""So many deaths in one place within a minute are no accident, and replacing workers again does not help. This also
bounds the log lines."""
_PAUSE_S: Final = 0.5
"""Seconds before replacing a worker that ended right after its start."""

Listen = Callable[[int, Sequence[int], int], list[list[SocketType]]]


@dataclass(eq=False)
class _Place:
    number: int
    listeners: list[SocketType]
    settings: ServerSettings
    worker: WorkerHandle | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_DEATHS))


class WorkerPool:
    """Workers on one port."""

    def __init__(
        self,
        forks: ForkServer,
        count: int,
        lock: HasDescriptor,
        settings: ServerSettings,
        routing: Routing,
        gone: ConnectionCounters,
        *,
        log_format: LogFormat = LogFormat.CONSOLE,
        log_level: LogLevel = LogLevel.INFO,
        listen: Listen = shared_listeners,
    ) -> None:
        """``lock`` is held by every worker; ``gone`` receives the counters of those that have ended."""
        self.routing = routing
        """The policy that new workers start with; :meth:`follow` is for existing ones."""
        self._forks = forks
        self._count = count
        self._lock = lock
        self._settings = settings
        self._gone = gone
        self._begin = partial(Begin, log_format=log_format, log_level=log_level)
        self._listen = listen
        self._places: list[_Place] = []
        self._serial = 0
        self._grace: Duration | None = None
        self._ended = trio.Event()
        self._cut = 0

    @property
    def active(self) -> int:
        """Live connections, by the workers' last reports."""
        return sum(worker.active for worker in self._workers)

    @property
    def workers(self) -> Workers:
        """The workers and their counters, by their last reports."""
        workers = self._workers
        return Workers(len(workers), tuple(worker.counters for worker in workers))

    async def run(self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled, then reset the remaining connections. Reports the addresses as started when
        all listen.

        Raises PortInUseError, PrivilegeError, ConfigError, before anything is accepted; WorkersError if workers cannot
        be started or die repeatedly.
        """
        settings = self._settings
        groups = self._open()
        for number, (listeners, share) in enumerate(
            zip(groups, shares(settings.max_connections, self._count), strict=True), 1
        ):
            self._places.append(_Place(number, listeners, replace(settings, max_connections=share)))
        addresses = [listener.getsockname()[:2] for listener in groups[0]]
        try:
            async with trio.open_nursery() as nursery:
                for place in self._places:
                    await nursery.start(self._occupy, place)
                log.info("workers are there", count=self._count, pids=[worker.pid for worker in self._workers])
                task_status.started(addresses)
        except BaseExceptionGroup as group:
            raise single(group, WorkersError) or group from None
        finally:
            self._close_listeners()
            self._ended.set()

    def _open(self) -> list[list[SocketType]]:
        """Open the listeners for each place."""
        settings = self._settings
        groups = self._listen(settings.port, settings.families, self._count)
        if settings.inbound_port is None:
            return groups
        try:
            inbound = shared_listeners(settings.inbound_port, settings.families, self._count, near=False)
        except BaseException:
            for listener in chain.from_iterable(groups):
                listener.close()
            raise
        return [[*each, *more] for each, more in zip(groups, inbound, strict=True)]

    async def follow(self, routing: Routing) -> None:
        """Put a policy in force in every worker, as :meth:`sidecar.proxy.server.ProxyServer.follow` does.

        A worker that does not apply it is killed, and its successor starts with it: when this returns, no worker
        chooses classes by an older policy.
        """
        self.routing = routing
        what = routing.table, routing.ids, routing.limits
        for worker in await self._tell(lambda serial: Follow(serial, *what), _FOLLOW_S):
            log.error("a worker does not take the new policy", pid=worker.pid)
            await worker.kill()

    async def ask(self) -> list[int]:
        """Request a report of every worker; return the numbers of those that are missing or do not answer."""
        silent = await self._tell(Ask, _ANSWER_S)

        def answers(worker: WorkerHandle | None) -> bool:
            return worker is not None and not worker.gone.is_set() and worker not in silent

        return [place.number for place in self._places if not answers(place.worker)]

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The number of live connections, and ``limit`` of them, without those of a worker that does not answer."""
        silent = await self._tell(lambda serial: Ask(serial, limit, order), _ANSWER_S)
        told = [each for worker in self._workers if worker not in silent for each in worker.connections]
        return ConnectionPage(self.active, select_connections(told, limit, order))

    async def maintain(self) -> None:
        """Query the workers, and kill those that have not answered for long, so that they are replaced."""
        for worker in await self._tell(Ask, _ANSWER_S):
            if trio.current_time() - worker.heard_at > _STUCK_S:
                log.error("a worker does not answer", pid=worker.pid, seconds=round(_STUCK_S))
                await worker.kill()

    async def drain(self, grace: Duration) -> int:
        """Stop accepting, wait until every connection has ended, reset the rest after ``grace`` seconds, and end
        ``run``.

        Returns the number of connections that were reset, without those of a worker that dies meanwhile.
        """
        self._grace = grace
        # First: when a worker closes its listener, ours must be closed. (A descriptor that is open elsewhere stays in
        # the worker's epoll.)
        self._close_listeners()
        for worker in self._workers:
            worker.post(Drain(grace))
        with trio.move_on_after(grace.seconds + _DRAIN_MARGIN_S):
            await self._ended.wait()
        if not self._ended.is_set():
            for worker in self._workers:
                log.error("a worker does not end", pid=worker.pid)
                await worker.kill()
            await self._ended.wait()
        return self._cut

    def _draining(self) -> bool:
        return self._grace is not None

    @property
    def _workers(self) -> list[WorkerHandle]:
        return [place.worker for place in self._places if place.worker is not None]

    async def _tell(self, message: Callable[[int], Ask | Follow], patience: float) -> list[WorkerHandle]:
        """Send a message to all; return those that have not answered within ``patience`` seconds."""
        self._serial += 1
        serial = self._serial
        workers = self._workers
        for worker in workers:
            worker.post(message(serial))
        with trio.move_on_after(patience):
            for worker in workers:
                await worker.answer(serial)
        # Other requests may run concurrently: only the answer to this message counts.
        return [worker for worker in workers if not worker.has_answered(serial) and not worker.gone.is_set()]

    async def _occupy(self, place: _Place, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep a worker running in a place, until the pool drains."""
        waited_for = True
        while not self._draining():
            began = trio.current_time()
            how = "could not be started"
            try:
                worker = await self._start(place)
            except OSError as error:
                how += f": {error.strerror}"
                pid = active = None
            else:
                try:
                    async with worker.running():
                        if waited_for and await worker.answer(1):
                            task_status.started()
                            waited_for = False
                        await worker.gone.wait()
                finally:
                    self._retire(place, worker)
                pid, active = worker.pid, worker.active
                status = await self._forks.reap(worker.pid)
                if worker.final_report is not None and self._draining():
                    break
                how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with exit code {status}"
            if not self._draining():
                self._note_death(place, how, pid, active)
                if trio.current_time() - began < _PAUSE_S:
                    await trio.sleep(_PAUSE_S)

    async def _start(self, place: _Place) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                forked = await self._forks.start([theirs, self._lock, *place.listeners])
        except BaseException:
            ours.close()
            raise
        worker = place.worker = WorkerHandle(forked, ours)
        worker.post(self._begin(place.number, place.settings))
        self._serial += 1
        routing = self.routing
        worker.post(Follow(self._serial, routing.table, routing.ids, routing.limits))
        if self._grace is not None:
            worker.post(Drain(self._grace))
        return worker

    def _retire(self, place: _Place, worker: WorkerHandle) -> None:
        """Keep its counters. Without a checkpoint in between, so that no sum ever decreases."""
        place.worker = None
        self._gone.add(worker.counters.at_rest())
        if worker.final_report is not None:
            self._cut += worker.final_report.cut

    def _note_death(self, place: _Place, how: str, pid: int | None, active: int | None) -> None:
        now = trio.current_time()
        place.deaths.append(now)
        again = len(place.deaths) == _MOST_DEATHS and now - place.deaths[0] < _DEATHS_WINDOW_S
        self._gone.workers_replaced += not again
        log.error("a worker " + how, worker=place.number, pid=pid, connections_lost=active, replaced=not again)
        if again:
            raise WorkersError(
                f"Workers die again and again: {_MOST_DEATHS} within a minute in one place, and the last one {how}. "
                "The log says more if it was a mistake of Podlane; SIGKILL may mean that the memory limit is too low. "
                "--workers 1 does without workers."
            )

    def _close_listeners(self) -> None:
        for place in self._places:
            for listener in place.listeners:
                listener.close()
            place.listeners.clear()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal
