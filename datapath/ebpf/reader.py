"""Answers the programs about what they could not read, and counts what they decided: tasks in the event loop.

One reader serves the programs of all interfaces that a process looks after: they share a ring buffer. Nothing depends
on it: while it does not run, connections whose first packet cannot be read go by port. It works through a bounded
number of beginnings at a time, so that other tasks have their turn.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final, Protocol

import trio

from daemon.log import Logger
from datapath.connection_list import ConnectionPage, Order, select_connections
from datapath.ebpf.beginnings import Beginning, Beginnings, SocketVerdict
from datapath.ebpf.datagrams import Datagrams, FlowVerdict, OpenedFlow
from datapath.ebpf.decided_names import (
    HITS,
    MOST_NAMES,
    NAME_KEY,
    NAME_VALUE,
    NameObserver,
    hits_between,
    judged,
    read_name,
)
from datapath.ebpf.libbpf import Map, NumberArray, RingBuffer, map_id
from datapath.ebpf.numbered_matches import NumberedMatch, numbered
from datapath.ebpf.program import BEGINNINGS, DECISIONS, FLOWS, HITS_MAP, NAMES_MAP, UDP_FLOWS, VERDICTS
from datapath.ebpf.shared_maps import LaneMaps, SharedMaps
from datapath.ebpf.socket_list import list_connections, list_flows
from datapath.errors import ConnectionListError
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
_MOST_EARLY: Final = 512
"""Records that wait for a lane to be adopted, of all lanes together."""
_CLASS_IDS: Final = 256
_KINDS: Final = (
    Detection(WireProtocol.TLS, Reason.FOUND),
    Detection(WireProtocol.HTTP1, Reason.FOUND),
    Detection(WireProtocol.OPAQUE, Reason.NOT_THIS),
    Detection(WireProtocol.OPAQUE, Reason.MISSED),
)
"""``WAS_*`` of ``programs/lane.bpf.c``."""
_NUMBERS: Final = _CLASS_IDS * len(_KINDS)


class ProgramObserver(FlowObserver, Protocol):
    """Receives the decisions of user space one by one, and the number of those that the programs made."""

    def decided_in_kernel(self, class_name: str, detection: Detection, count: int) -> None:
        """So many connections more were given this class; ``detection`` is without names."""


class LaneReader:
    """What a :class:`SharedReader` does for the programs of one interface. Not thread-safe."""

    def __init__(
        self,
        maps: LaneMaps,
        routing: Routing,
        observer: ProgramObserver,
        *,
        detection_timeout: Duration,
        names: NameObserver | None = None,
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``maps``: their descriptors stay open until :meth:`close`. ``names`` is told which names connections had that
        the programs have decided, and of the matches; None: nobody asks for them. ``inside``: during the block, the
        calling thread is in the network namespace whose connections these are.

        Raises :class:`~datapath.ebpf.libbpf.BpfError`.
        """
        self.maps = maps
        self._beginnings = Beginnings(routing, observer, detection_timeout=detection_timeout.seconds)
        self._observer = observer
        self._datagrams = Datagrams(routing, observer, detection_timeout=detection_timeout.seconds)
        self._verdicts = Map(maps.fds[VERDICTS])
        self._udp_flows = Map(maps.fds[UDP_FLOWS])
        self._decisions = NumberArray(maps.fds[DECISIONS], _NUMBERS)
        self._counted = self._decisions.raw()
        self._names = None if names is None else _DecidedNames(maps, names, numbered(routing.table))
        self._inside = inside

    def follow(self, routing: Routing) -> None:
        """Put a routing in force for what is decided from now on, and for flows of QUIC.

        Raises :class:`~datapath.ebpf.libbpf.BpfError`.
        """
        self.count()
        self._beginnings.routing = routing
        if self._names is not None:
            self._names.matches = numbered(routing.table)
        _write(self._udp_flows, self._datagrams.follow(routing))

    def take(self, beginning: Beginning) -> None:
        """Answer if this suffices. Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        if beginning.udp:
            _write(self._udp_flows, self._datagrams.take(beginning, monotonic()))
        else:
            _write(self._verdicts, self._beginnings.take(beginning, monotonic()))

    def tidy(self) -> None:
        """Give up connections that have gone silent, and count. Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        if self._beginnings.undecided:
            _write(self._verdicts, self._beginnings.give_up_silent(monotonic()))
        if self._datagrams.undecided:
            self._datagrams.give_up_silent(monotonic())
        self.count()

    def count(self) -> None:
        """Tell of what the programs have decided since the last time. Raises
        :class:`~datapath.ebpf.libbpf.BpfError`."""
        if self._names is not None:
            self._names.tell()
        now = self._decisions.raw()
        if now == self._counted:
            return
        counted, self._counted = self._counted, now
        names = {class_id: name for name, class_id in self._beginnings.routing.ids.items()}
        layout = struct.Struct(f"={_NUMBERS}Q")
        for i, (before, after) in enumerate(zip(layout.unpack(counted), layout.unpack(now), strict=True)):
            if after > before:
                class_id, kind = divmod(i, len(_KINDS))
                self._observer.decided_in_kernel(names.get(class_id, "default"), _KINDS[kind], after - before)

    async def connections(self, limit: int, order: Order, limiter: trio.CapacityLimiter) -> ConnectionPage:
        """The number of connections alive, and ``limit`` of them, read in a thread of this ``limiter``.

        Raises :class:`~datapath.errors.ConnectionListError`, :class:`~datapath.errors.NetworkNamespaceError`,
        :class:`~datapath.ebpf.program.ObjectMissingError`.
        """
        flows = os.dup(self.maps.fds[FLOWS])  # the programs may be replaced or removed meanwhile
        udp_flows = os.dup(self.maps.fds[UDP_FLOWS])
        opened = self._datagrams.opened_here()
        try:
            return await trio.to_thread.run_sync(
                partial(self._list, flows, udp_flows, opened, limit, order), limiter=limiter
            )
        finally:
            os.close(flows)
            os.close(udp_flows)

    def _list(
        self, flows: int, udp_flows: int, opened: Sequence[OpenedFlow], limit: int, order: Order
    ) -> ConnectionPage:
        ids = self._beginnings.routing.ids
        with self._inside():
            tcp = list_connections(flows, ids, self._beginnings.known, limit, order)
            quic = list_flows(udp_flows, opened, ids)
        both = [*tcp.connections, *quic]
        return ConnectionPage(tcp.active + len(quic), select_connections(both, limit, order))

    def close(self) -> None:
        """Let go of the memory that is shared with the programs."""
        self._decisions.close()
        if self._names is not None:
            self._names.close()


class _DecidedNames:
    """Names and matches of connections that the programs of one interface have decided."""

    def __init__(self, maps: LaneMaps, observer: NameObserver, matches: Sequence[NumberedMatch]) -> None:
        """Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        self._observer = observer
        self.matches = matches
        """By the numbers that the programs in force count."""
        self._hits = NumberArray(maps.fds[HITS_MAP], HITS)
        self._names = Map(maps.fds[NAMES_MAP])
        self._told = self._hits.raw()
        self._names.drain(NAME_KEY.size, NAME_VALUE.size, MOST_NAMES)  # by the numbers of an earlier process's policy

    def tell(self) -> None:
        """What is new. Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        now = self._hits.raw()
        if now == self._told:
            return  # no name either: each of these is of a connection that was counted
        layout = struct.Struct(f"={HITS}Q")
        before, self._told = layout.unpack(self._told), now
        for number, count in hits_between(self.matches, before, layout.unpack(now)):
            self._observer.hit_in_kernel(*judged(self.matches, number), count)
        for key, value in self._names.drain(NAME_KEY.size, NAME_VALUE.size, MOST_NAMES):
            read = read_name(key, value)
            if read is not None:
                seen, number, count = read
                self._observer.seen_in_kernel(seen, *judged(self.matches, number), count)

    def close(self) -> None:
        self._hits.close()


@dataclass(slots=True)
class _Ring:
    """A ring buffer, by whose lanes it is read."""

    buffer: RingBuffer
    lanes: set[int] = field(default_factory=set)
    life: trio.CancelScope = field(default_factory=trio.CancelScope)


class SharedReader:
    """Reads the ring buffer that the programs share, and hands each record to its lane."""

    def __init__(self, maps: SharedMaps | None = None, *, tidy_every: Duration = TIDY_EVERY) -> None:
        """``maps``: those that the programs share; by default sized for one interface."""
        self.maps = maps or SharedMaps()
        self.listing = trio.CapacityLimiter(1)
        """Lists of connections at once, of all interfaces."""
        self._tidy_every = tidy_every.seconds
        self._lanes: dict[int, LaneReader] = {}
        self._rings: dict[int, _Ring] = {}
        """By the map's id. There are several while programs of an earlier process are there that have another one."""
        self._early: deque[Beginning] = deque(maxlen=_MOST_EARLY)
        self._nursery: trio.Nursery | None = None

    @property
    def running(self) -> bool:
        """Whether :meth:`run` is."""
        return self._nursery is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._tidy()
        finally:
            self._nursery = None

    def add(self, lane: LaneReader) -> None:
        """Serve one more while this runs. Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        assert self._nursery is not None, "run() comes first"
        fd = lane.maps.fds[BEGINNINGS]
        ring_id, number = map_id(fd), lane.maps.number
        ring = self._rings.get(ring_id)
        if ring is None:
            ring = self._rings[ring_id] = _Ring(RingBuffer(fd))
            self._nursery.start_soon(self._read, ring_id, ring)
        ring.lanes.add(number)
        self._lanes[number] = lane
        mine = [each for each in self._early if each.lane == number]
        if mine:
            self._early = deque((each for each in self._early if each.lane != number), _MOST_EARLY)
            for each in mine:
                _guarded(partial(lane.take, each))

    def remove(self, lane: LaneReader) -> None:
        """Serve it no more. Idempotent."""
        number = lane.maps.number
        if self._lanes.get(number) is not lane:
            return
        del self._lanes[number]
        lane.close()
        for ring_id, ring in list(self._rings.items()):
            ring.lanes.discard(number)
            if not ring.lanes:
                del self._rings[ring_id]
                ring.life.cancel()

    async def _read(self, ring_id: int, ring: _Ring) -> None:
        try:
            with ring.life:
                while True:
                    await trio.lowlevel.wait_readable(ring.buffer.fileno())
                    for record in ring.buffer.read(_AT_ONCE):
                        _guarded(partial(self._hand_on, record))
        finally:
            if self._rings.get(ring_id) is ring:
                del self._rings[ring_id]
            ring.buffer.close()

    def _hand_on(self, record: bytes) -> None:
        beginning = Beginning.read(record)
        lane = self._lanes.get(beginning.lane)
        if lane is None:
            self._early.append(beginning)  # of programs that are about to be adopted, or are gone
        else:
            lane.take(beginning)

    async def _tidy(self) -> None:
        while True:
            await trio.sleep(self._tidy_every)
            for lane in self._lanes.values():
                _guarded(lane.tidy)


def _write(answers: Map, found: Sequence[SocketVerdict] | Sequence[FlowVerdict]) -> None:
    for verdict in found:
        key, value = verdict.entry
        answers[key] = value


def _guarded(work: Callable[[], None]) -> None:
    """One connection's fault must not end all others; it goes by port."""
    try:
        work()
    except Exception:  # it is logged: any workload may send what is read here
        log.exception("a mistake in judging a beginning")


class ReaderLife:
    """Has the programs of one interface served while they are there."""

    def __init__(self, reader: SharedReader, make: Callable[[LaneMaps, Routing], LaneReader] | None) -> None:
        """Without ``make`` nothing is read."""
        self._reader = reader
        self._make = make
        self._lane: LaneReader | None = None

    async def follow(self, maps: LaneMaps | None, routing: Routing, nursery: trio.Nursery) -> None:
        """Answer programs that are in force, by this routing. A reader that does not run yet runs in ``nursery``.

        There are no ``maps`` while the programs are those of an earlier process and this one may not open theirs.
        Raises :class:`~datapath.ebpf.libbpf.BpfError`.
        """
        if self._lane is not None and self._lane.maps == maps:
            self._lane.follow(routing)
            return
        self.stop()
        if self._make is None or maps is None:
            return
        if not self._reader.running:
            await nursery.start(self._reader.run)
        self._lane = self._make(maps, routing)
        self._reader.add(self._lane)

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """See :meth:`LaneReader.connections`. Raises :class:`~datapath.errors.ConnectionListError` also without one."""
        if self._lane is None:
            raise ConnectionListError(
                "Programs of an earlier process decide the connections here, whose maps this process may not open: "
                "that takes CAP_SYS_ADMIN. They are listed as soon as there is another policy."
            )
        return await self._lane.connections(limit, order, self._reader.listing)

    def stop(self) -> None:
        """Read no more."""
        lane, self._lane = self._lane, None
        if lane is not None:
            self._reader.remove(lane)
