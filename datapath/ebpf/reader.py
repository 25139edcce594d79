"""Answers the programs about what they could not read, and counts what they decided: a task in the event loop.

Nothing depends on it: while it does not run, connections whose first packet cannot be read go by port. It works through
a bounded number of beginnings at a time, so that other tasks have their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Final, Protocol

import trio

from daemon.log import Logger
from datapath.ebpf.beginnings import Beginning, Beginnings, SocketVerdict
from datapath.ebpf.libbpf import Map, RingBuffer
from datapath.ebpf.program import BEGINNINGS, DECISIONS, VERDICTS
from datapath.protocols.detect import Detection, Reason
from datapath.protocols.detect import Protocol as WireProtocol
from datapath.routing.cached import Routing
from datapath.stepaside.class_cache import FlowObserver
from traffic_policy.units import Duration

log = Logger()

_AT_ONCE: Final = 64
"""Records that are read before other tasks have their turn."""
TIDY_EVERY: Final = Duration.from_seconds(1)
"""Between two looks at counters and at silent connections."""
_CLASS_IDS: Final = 256
_KINDS: Final = (
    Detection(WireProtocol.TLS, Reason.FOUND),
    Detection(WireProtocol.HTTP1, Reason.FOUND),
    Detection(WireProtocol.OPAQUE, Reason.NOT_THIS),
    Detection(WireProtocol.OPAQUE, Reason.MISSED),
)
"""``WAS_*`` of ``programs/lane.bpf.c``."""


class ProgramObserver(FlowObserver, Protocol):
    """Receives the decisions of user space one by one, and the number of those that the programs made."""

    def decided_in_kernel(self, class_name: str, detection: Detection, count: int) -> None:
        """So many connections more were given this class; ``detection`` is without names."""


class BeginningsReader:
    """Reads the ring buffer of one interface's programs until drained or cancelled."""

    def __init__(
        self,
        maps: Mapping[str, int],
        routing: Routing,
        observer: ProgramObserver,
        *,
        detection_timeout: Duration,
        tidy_every: Duration = TIDY_EVERY,
    ) -> None:
        """``maps``: descriptors, by name, that stay open while this runs (:attr:`datapath.ebpf.lane.Lane.lasting`)."""
        self._beginnings = Beginnings(routing, observer, detection_timeout=detection_timeout.seconds)
        self._observer = observer
        self._tidy_every = tidy_every.seconds
        self._maps = {name: Map(fd) for name, fd in maps.items()}
        self._life = trio.CancelScope()
        self._counted = self._decisions()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve. Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        ring = RingBuffer(self._maps[BEGINNINGS].fd)
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tidy)
                    task_status.started()
                    while True:
                        await trio.lowlevel.wait_readable(ring.fileno())
                        self._answer(ring.read(_AT_ONCE))
        finally:
            ring.close()

    def follow(self, routing: Routing) -> None:
        """Put a routing in force for what is decided from now on."""
        self._count()
        self._beginnings.routing = routing

    def stop(self) -> None:
        """End :meth:`run`."""
        self._life.cancel()

    def _answer(self, records: Iterable[bytes]) -> None:
        for record in records:
            try:
                self._write(partial(self._beginnings.take, Beginning.read(record)))
            except Exception:  # one connection's fault must not end all others; it goes by port
                log.exception("a mistake in judging a beginning")

    async def _tidy(self) -> None:
        while True:
            await trio.sleep(self._tidy_every)
            self._write(self._beginnings.give_up_silent)
            self._count()

    def _write(self, decide: _Decide) -> None:
        if self._life.cancel_called:
            return  # the maps may be closed
        verdicts = self._maps[VERDICTS]
        for verdict in decide(monotonic()):
            key, value = verdict.entry
            verdicts[key] = value

    def _count(self) -> None:
        """Tell of what the programs have decided since the last time."""
        if self._life.cancel_called:
            return
        counted, self._counted = self._counted, self._decisions()
        names = {class_id: name for name, class_id in self._beginnings.routing.ids.items()}
        for i, (before, after) in enumerate(zip(counted, self._counted, strict=True)):
            if after > before:
                class_id, kind = divmod(i, len(_KINDS))
                self._observer.decided_in_kernel(names.get(class_id, "default"), _KINDS[kind], after - before)

    def _decisions(self) -> list[int]:
        return self._maps[DECISIONS].per_processor(_CLASS_IDS * len(_KINDS))


class ReaderLife:
    """Runs a reader while programs are there."""

    def __init__(self, make: Callable[[Mapping[str, int], Routing], BeginningsReader] | None) -> None:
        """``make`` takes the maps' descriptors; without it nothing is read."""
        self._make = make
        self._reader: BeginningsReader | None = None

    async def follow(self, maps: Mapping[str, int], routing: Routing, nursery: trio.Nursery) -> None:
        """Answer programs that are in force, by this routing. Raises :class:`~datapath.ebpf.libbpf.BpfError`.

        There are no ``maps`` while the programs are those of an earlier process and this one may not open theirs.
        """
        if self._reader is not None:
            self._reader.follow(routing)
        elif self._make is not None and maps:
            self._reader = self._make(maps, routing)
            await nursery.start(self._reader.run)

    def stop(self) -> None:
        """Read no more."""
        if self._reader is not None:
            self._reader.stop()


class _Decide(Protocol):
    def __call__(self, now: float, /) -> list[SocketVerdict]: ...
