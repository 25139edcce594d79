"""Reads the beginnings of connections that the programs could not read: the sans-I/O part of
:mod:`datapath.ebpf.reader`.

The programs show copies of data (``programs/beginnings.h``); nothing waits for an answer. The bytes of a connection are
put in order and fed to the detector that the relay uses, then to the same routing table. Each origin (a container) has
a table of its own, so that one that begins many connections and does not go on loses only its own.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from datapath.bounded_map import BoundedMap
from datapath.protocols.detect import Detection, Reason
from datapath.protocols.detect import Protocol as WireProtocol
from datapath.protocols.streams import FirstBytes
from datapath.routing.cached import Routing
from datapath.stepaside.class_cache import ClassCache, DetectedFlow, FlowObserver
from datapath.stepaside.pending_flows import PATIENCE_S, PendingFlows
from traffic_policy.policy import Bound

MAX_OPENINGS: Final = 4096
"""Maximum connections whose first bytes do not suffice yet."""
MAX_HELD: Final = 16 << 20
"""Maximum bytes held for all of them."""
_MAX_NAMES: Final = 1024
"""Connections whose names are remembered, for lists of them."""
_SHARE: Final = 4
"""An origin may have this part of both."""

_HEADER: Final = struct.Struct("=QQII16s16s4sHBxIBB2x")
"""struct beginning (``programs/scratch.h``); the data follows."""
_KEY: Final = struct.Struct("=QI")
_V4_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_V4_FLOW: Final = 12
"""Bytes of the addresses and ports of a flow of IPv4."""
_BY_PACKET: Final = 0
_CONTRADICTED: Final = Detection(WireProtocol.OPAQUE, Reason.CONTRADICTED)


class Beginning(NamedTuple):
    """A copy of data that a connection's client has sent.

    ``cookie``: the connection's number. ``flow``: addresses and ports in network byte order. ``lane``: whose programs
    have shown it. ``udp``: a datagram instead, of a flow that has the class ``class_id`` (0: none).
    """

    cookie: int
    origin: int
    first_byte: int
    sequence: int
    flow: bytes
    data: bytes
    bound: Bound = Bound.OUTBOUND
    lane: int = 0
    udp: bool = False
    class_id: int = 0

    @classmethod
    def read(cls, record: bytes) -> Beginning:
        """From a record of the ring buffer."""
        head = _HEADER.unpack_from(record)
        cookie, origin, first_byte, sequence, source, destination, ports, size, inbound, lane, udp, class_id = head
        if source.startswith(_V4_MAPPED) and destination.startswith(_V4_MAPPED):
            source, destination = source[12:], destination[12:]
        data = record[_HEADER.size : _HEADER.size + size]
        bound = Bound.INBOUND if inbound else Bound.OUTBOUND
        flow = source + destination + ports
        return cls(cookie, origin, first_byte, sequence, flow, data, bound, lane, bool(udp), class_id)


def mapped(flow: bytes) -> bytes:
    """A flow as the programs have it: IPv4 addresses as ::ffff:a.b.c.d."""
    if len(flow) != _V4_FLOW:
        return flow
    return _V4_MAPPED + flow[:4] + _V4_MAPPED + flow[4:]


class SocketVerdict(NamedTuple):
    """An answer to the programs. ``class_id`` 0: the port decides."""

    cookie: int
    first_byte: int
    class_id: int

    @property
    def entry(self) -> tuple[bytes, bytes]:
        """The key and the value in the map ``verdicts``."""
        return struct.pack("=Q", self.cookie), struct.pack("=II", self.first_byte, self.class_id)


class KnownName(NamedTuple):
    """What the first bytes of a connection were, and the server name or host in them."""

    protocol: str
    name: str | None


class _Opening(NamedTuple):
    stream: FirstBytes
    since: float
    cookie: int
    flow: bytes
    bound: Bound

    @property
    def held(self) -> int:
        return self.stream.held

    @property
    def key(self) -> bytes:
        """Of the connection, in the tables: a socket may be connected again."""
        return _KEY.pack(self.cookie, self.stream.base)


class Beginnings:
    """The connections whose first bytes do not suffice yet. Not thread-safe."""

    def __init__(
        self,
        routing: Routing,
        flow_observer: FlowObserver,
        *,
        detection_timeout: float,
        max_openings: int = MAX_OPENINGS,
        max_held: int = MAX_HELD,
    ) -> None:
        """``detection_timeout`` in seconds, counted from a connection's first bytes."""
        self._class_cache = ClassCache(routing)
        self._flow_observer = flow_observer
        self._timeout = detection_timeout
        self._max_openings = max_openings
        self._max_held = max_held
        self._origins: dict[int, PendingFlows[_Opening]] = {}
        # Copies of more of their packets are on their way.
        self._decided = BoundedMap[bytes, bool](max_openings)
        self._names = BoundedMap[bytes, KnownName](_MAX_NAMES)

    @property
    def routing(self) -> Routing:
        """The routing in force."""
        return self._class_cache.routing

    @routing.setter
    def routing(self, routing: Routing) -> None:
        self._class_cache = ClassCache(routing)

    @property
    def undecided(self) -> int:
        """Number of connections whose first bytes do not suffice yet."""
        return sum(map(len, self._origins.values()))

    @property
    def held(self) -> int:
        """Bytes held for them."""
        return sum(pending.held for pending in self._origins.values())

    def take(self, beginning: Beginning, now: float) -> list[SocketVerdict]:
        """The verdicts that these bytes allow, at ``now`` (monotonic seconds): of this connection, and of others that
        had to make room. Does not raise, whatever the bytes are."""
        key = _KEY.pack(beginning.cookie, beginning.first_byte)
        if self._decided.get(key):
            return []
        pending = self._pending(beginning.origin)
        opening = pending.get(key)
        if opening is None:
            opening = _Opening(FirstBytes(beginning.first_byte), now, beginning.cookie, beginning.flow, beginning.bound)
            pending.add(key, opening)
        stream = opening.stream
        before = stream.held
        detection = stream.add(beginning.sequence, beginning.data)
        pending.grew(opening, before)
        if detection is None and now - opening.since > self._timeout:
            detection = stream.finish(Reason.TIMEOUT)
        if detection is None:
            return self._make_room(beginning.origin, key, now)
        pending.pop(key)
        return [self._decide(opening, _CONTRADICTED if stream.contradicted else detection, now)]

    def known(self, cookie: int, first_byte: int) -> KnownName | None:
        """What was read of a connection; None: nothing, or it is forgotten. From any thread."""
        return self._names.get(_KEY.pack(cookie, first_byte))

    def give_up_silent(self, now: float) -> list[SocketVerdict]:
        """The verdicts on connections that have gone silent: by port. Call periodically."""
        found = [self._give_up(pending, key, now) for pending in self._origins.values() for key in pending.overdue(now)]
        self._origins = {origin: pending for origin, pending in self._origins.items() if len(pending)}
        return found

    def _pending(self, origin: int) -> PendingFlows[_Opening]:
        pending = self._origins.get(origin)
        if pending is None:
            pending = self._origins[origin] = PendingFlows(
                most=max(1, self._max_openings // _SHARE),
                most_held=self._max_held // _SHARE,
                longest=self._timeout + PATIENCE_S,
            )
        return pending

    def _make_room(self, origin: int, key: bytes, now: float) -> list[SocketVerdict]:
        """Give up the oldest of this origin, or of the one that has most where there are many origins."""
        pending = self._origins[origin]
        found = [self._give_up(pending, other, now) for other in pending.surplus(key)]
        if len(self._origins) <= _SHARE:
            return found
        while self.undecided > self._max_openings or self.held > self._max_held:
            largest = max(self._origins.values(), key=lambda each: (each.held / self._max_held, len(each)))
            found.append(self._give_up(largest, largest.oldest, now))
        return found

    def _give_up(self, pending: PendingFlows[_Opening], key: bytes, now: float) -> SocketVerdict:
        opening = pending.pop(key)
        assert opening is not None, "both callers have it from the table"
        expired = now - opening.since > self._timeout
        return self._decide(opening, opening.stream.finish(Reason.TIMEOUT if expired else Reason.LIMIT), now)

    def _decide(self, opening: _Opening, detection: Detection, now: float) -> SocketVerdict:
        self._decided[opening.key] = True
        if detection.reason is Reason.FOUND:
            self._names[opening.key] = KnownName(detection.protocol.value, detection.sni or detection.host)
        known = DetectedFlow(detection, opening.bound)
        choice = self._class_cache.choose(opening.flow, known)
        self._flow_observer.detected(detection, now - opening.since)
        self._flow_observer.stepped_aside(opening.flow, known, choice)
        by_content = detection.reason in (Reason.FOUND, Reason.CONTRADICTED)
        class_id = self.routing.ids[choice.class_name] if by_content else _BY_PACKET
        return SocketVerdict(opening.cookie, opening.stream.base or 0, class_id)
