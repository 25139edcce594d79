"""Classifies UDP flows by the first QUIC datagrams. Pure; the UDP part of the step-aside classifier.

The kernel shows the datagrams of a flow until it is decided, and after that only those with which a client begins a
connection (:mod:`datapath.netfilter.quic`). So there are three tables' worth to know:

* **opening**: the hello is not whole yet: it takes several datagrams, or the client must try again with another version
  or a token. Left by an answer, by a datagram that clients send only after their hello, when the detection timeout has
  gone by (noticed at the next datagram), when there is no room, or when no more datagrams come.
* **decided**: what decided a flow, and which Initial that began with. A flow that was silent for longer
  than the kernel remembers it comes as a new one, in the middle of its connection, where nothing can be read: it gets
  the class it had. There is no time limit: whatever else the same addresses and ports are used for later begins with an
  Initial, or with the same right to a guess. The flows that were needed longest ago are forgotten first.
* A connection that begins on a decided flow can only make its class **stricter**. What it says may be a decoy, which
  never reaches the server (a low TTL, IPV6_UNICAST_HOPS, a packet too large for the path), while an older connection
  goes on; and both may be meant. A flow that the kernel has forgotten is free again after :data:`STRICT_S`.
* What is neither, and no Initial: not QUIC, or begun before we were here. It goes by port, unless the kernel has it as
  decided, by a classifier before this one: so it stays until a connection begins on it that can be read.

A flow gets into conntrack's table when its first packet leaves, and that waits for us. So all that is sent meanwhile
comes as a flow's first as well, and a mark that one of these is given is lost.

No datagram is held, and no datagram contents cause an exception.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from datapath.bounded_map import BoundedMap
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.quic_initial import QuicInitialReader, detection_of
from datapath.protocols.quic_packets import PacketName, begins_with, is_short
from datapath.stepaside.class_cache import ClassCache, DetectedFlow, FlowObserver
from datapath.stepaside.marks import DECIDED, FIRST, OURS
from datapath.stepaside.pending_flows import PATIENCE_S, PendingFlows
from traffic_policy.marks import STATE_MASK, class_id_of
from traffic_policy.policy import Bound, TransportProtocol

MAX_OPENINGS: Final = 1024
"""Flows whose hello is awaited at once."""
MAX_HELD: Final = 8 << 20
"""Bytes of keys and hellos held for them in all."""
MAX_DECIDED: Final = 16384
"""Flows for which is remembered what decided them."""

STRICT_S: Final = 600.0
"""Seconds in which a flow that the kernel has forgotten is held to the class it had. Servers keep a silent connection
for less (max_idle_timeout, RFC 9000 10.1)."""

_UNSEEN: Final = Detection(Protocol.OPAQUE, Reason.MISSED)


class _PendingQuicFlow(NamedTuple):
    reader: QuicInitialReader
    begun: PacketName | None
    since: float
    bound: Bound
    kept: bool
    """The flow has a class in the kernel, and stays in it if this comes to nothing."""

    @property
    def held(self) -> int:
        return self.reader.held


class _Decided(NamedTuple):
    known: DetectedFlow
    begun: PacketName | None
    at: float


class QuicFlows:
    """Judges datagrams. For the thread that calls :meth:`classify`; :meth:`known` is for others, too."""

    def __init__(
        self,
        flow_observer: FlowObserver,
        *,
        detection_timeout: float,
        max_openings: int = MAX_OPENINGS,
        max_held: int = MAX_HELD,
        max_decided: int = MAX_DECIDED,
    ) -> None:
        """``detection_timeout`` in seconds, from a connection's first datagram."""
        self._flow_observer = flow_observer
        self._timeout = detection_timeout
        longest = detection_timeout + PATIENCE_S
        self._pending = PendingFlows[_PendingQuicFlow](most=max_openings, most_held=max_held, longest=longest)
        self._decided = BoundedMap[bytes, _Decided](max_decided)  # renewed when a flow is needed
        self.moved: list[tuple[bytes, int]] = []
        """Flows and marks for the caller to write down and clear: the kernel does not save these by itself."""

    @property
    def undecided(self) -> int:
        """Flows whose hello is not whole yet."""
        return len(self._pending)

    @property
    def held(self) -> int:
        """Bytes held for them."""
        return self._pending.held

    @property
    def cached(self) -> int:
        """Flows of which is still known what decided them."""
        return len(self._decided)

    def known(self, flow: bytes) -> DetectedFlow | None:
        """What decided a flow, if that is still remembered."""
        decided = self._decided.get(flow)
        return None if decided is None else decided.known

    def all_known(self) -> list[tuple[bytes, DetectedFlow, float]]:
        """Flows, what decided them, and when."""
        return [(flow, decided.known, decided.at) for flow, decided in self._decided.items()]

    def classify(
        self, flow: bytes, datagram: bytes, mark: int, now: float, bound: Bound, class_cache: ClassCache
    ) -> int:
        """The mark that a packet is to go on with. ``flow``: addresses and ports as it has them; ``now`` in seconds."""
        opening = self._pending.get(flow)
        expired = opening is not None and now - opening.since > self._timeout
        if expired and mark & STATE_MASK:  # of a flow that the kernel has forgotten, or that is decided: it stays so
            self._pending.pop(flow)
            opening = None
        if opening is None:
            return self._begin(flow, datagram, mark, now, bound, class_cache)
        if is_short(datagram):
            detection: Detection | None = Detection(Protocol.QUIC, Reason.MISSED)
        else:
            before = opening.held
            detection = detection_of(opening.reader.feed(datagram))
            self._pending.grew(opening, before)
            if detection is None and expired:
                detection = Detection(Protocol.QUIC, Reason.TIMEOUT)
        if detection is None:
            self._make_room(flow, now, class_cache)
            return _undecided(mark)
        self._pending.pop(flow)
        decided = self._decide(flow, opening, detection, now, mark, class_cache)
        if mark & STATE_MASK != DECIDED.value:
            self.moved.append((flow, decided))  # what is saved for this packet may be lost: see above
        return decided

    def give_up_silent(self, now: float, class_cache: ClassCache) -> None:
        """To be called now and then: flows that say nothing more go by port."""
        for flow in self._pending.overdue(now):
            self._give_up(flow, now, class_cache)

    def _begin(self, flow: bytes, datagram: bytes, mark: int, now: float, bound: Bound, class_cache: ClassCache) -> int:
        """A datagram of a flow from which nothing is awaited."""
        begun = begins_with(datagram)
        decided = self._decided.get(flow)
        kept = mark & STATE_MASK == DECIDED.value
        opening = _PendingQuicFlow(QuicInitialReader(), begun, now, bound, kept)
        if decided is not None and begun is None:
            return self._as_before(flow, decided, mark, class_cache)
        if begun is None and mark & STATE_MASK != FIRST.value:
            return mark if kept else self._decide(flow, opening, _UNSEEN, now, mark, class_cache)
        detection = detection_of(opening.reader.feed(datagram))
        if decided is not None and not opening.reader.opened:
            # A later Initial of the connection that is known: it has the id that the server chose, which makes no keys.
            return self._as_before(flow, decided, mark, class_cache)
        if kept and not opening.reader.opened:
            return mark
        if detection is not None:
            return self._decide(flow, opening, detection, now, mark, class_cache)
        self._pending.add(flow, opening)
        self._make_room(flow, now, class_cache)
        return _undecided(mark) if decided is None else self._as_before(flow, decided, mark, class_cache)

    def _as_before(self, flow: bytes, decided: _Decided, mark: int, class_cache: ClassCache) -> int:
        self._decided.renew(flow)
        return self._moved(flow, mark, mark & ~OURS | class_cache.choose(flow, decided.known).mark)

    def _make_room(self, flow: bytes, now: float, class_cache: ClassCache) -> None:
        for other in self._pending.surplus(flow):
            self._give_up(other, now, class_cache)

    def _give_up(self, flow: bytes, now: float, class_cache: ClassCache) -> None:
        """No room, or no patience: its next datagram gets what is known of it now."""
        opening = self._pending.pop(flow)
        if opening is None or opening.kept:
            return
        expired = now - opening.since > self._timeout
        reason = Reason.TIMEOUT if expired else Reason.LIMIT
        self._decide(flow, opening, Detection(Protocol.QUIC, reason), now, 0, class_cache)

    def _decide(
        self,
        flow: bytes,
        opening: _PendingQuicFlow,
        detection: Detection,
        now: float,
        mark: int,
        class_cache: ClassCache,
    ) -> int:
        known = DetectedFlow(detection, opening.bound, TransportProtocol.UDP)
        choice = class_cache.choose(flow, known)
        before = self._decided.get(flow)
        if before is not None and (mark & STATE_MASK == DECIDED.value or now - before.at < STRICT_S):
            present = class_cache.choose(flow, before.known)
            if class_cache.routing.table.is_laxer(choice.class_name, present.class_name):
                known, choice = before.known, present
        elif mark & STATE_MASK == DECIDED.value:  # by a classifier before this one
            name = class_cache.routing.ids.name_of(class_id_of(mark))
            if name is not None and class_cache.routing.table.is_laxer(choice.class_name, name):
                return mark
        self._decided[flow] = _Decided(known, opening.begun, now)
        if before is None or before.known != known:  # else it is the same hello again, behind a Retry
            self._flow_observer.detected(detection, now - opening.since)
            self._flow_observer.stepped_aside(flow, known, choice)
        return self._moved(flow, mark, mark & ~OURS | choice.mark)

    def _moved(self, flow: bytes, before: int, mark: int) -> int:
        if before & STATE_MASK == DECIDED.value and before != mark:
            self.moved.append((flow, mark))
        return mark


def _undecided(mark: int) -> int:
    """The mark as it is, without the state that says how the packet came here; decided flows keep their class."""
    return mark if mark & STATE_MASK == DECIDED.value else mark & ~STATE_MASK
