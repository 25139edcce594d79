"""Classifies packets: the pure core of the step-aside datapath.

The kernel queues the first packets of a connection that carry data, one after the other, and releases each with the
mark that :meth:`Classifier.classify` returns. After a decided mark it queues no more packets of the connection. The
tables of connections:

* **opening**: its first bytes do not suffice yet. It leaves the table when detection ends, when the client's bytes end,
  when the detection timeout has passed (checked at its next packet), when the table is full, or when no more packets
  arrive (:meth:`Classifier.give_up_silent`).
* **chosen**: a name has decided its class, but the bytes with it may not arrive, or another ClientHello may follow:
  :mod:`datapath.stepaside.chosen_flows`.
* **decided** (or chosen): its detected content, and which side opened it. Needed for packets that were queued before
  the decision and are read after it, and for reclassification when the policy changes. The oldest entries are evicted
  when the table is full; those connections then lose this.

:mod:`datapath.stepaside.quic_flows` handles UDP.

Bytes that are sent again with other content, and urgent ones (which stand in the stream, but which a server does not
read there), are signs of a program that shows one name here and another one to the server. Such a connection gets the
strictest class that any content could have.

No packet is held: an undecided packet continues in the class of its port. ``classify`` returns a mark for any packet
contents and does not raise.

One thread calls ``classify``; :attr:`~Classifier.routing` and :meth:`~Classifier.choose_again` are thread-safe.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, NamedTuple

from datapath.bounded_map import BoundedMap
from datapath.protocols.detect import Detection, Reason, detect_repeated
from datapath.protocols.detect import Protocol as WireProtocol
from datapath.protocols.packets import TCP, UDP, read_ip
from datapath.protocols.streams import FirstBytes
from datapath.routing.cached import Routing
from datapath.stepaside.chosen_flows import ChosenFlows, Doubt, Next, may_say_more
from datapath.stepaside.class_cache import ClassCache, DetectedFlow, FlowObserver
from datapath.stepaside.marks import CHOSEN, DECIDED, FIRST, OURS
from datapath.stepaside.pending_flows import PATIENCE_S, PendingFlows
from datapath.stepaside.quic_flows import QuicFlows
from datapath.stepaside.tcp_sockets import Sockets
from traffic_policy.marks import CLASS_MASK, STATE_MASK, class_id_of
from traffic_policy.policy import DEFAULT_CLASS, Bound, TransportProtocol

MAX_OPENINGS: Final = 4096
"""Maximum connections in the table of openings."""
MAX_CHOSEN: Final = 16384
"""Maximum connections in the table of chosen ones."""
MAX_HELD: Final = 16 << 20
"""Maximum bytes held for all of each table."""
MAX_DECIDED: Final = 16384
"""Maximum connections whose content is remembered."""

_FIN, _SYN, _URG = 0x01, 0x02, 0x20
_TCP_HEADER: Final = 20
_UDP_HEADER: Final = 8
_SEQUENCES: Final = 1 << 32
_UNSEEN: Final = Detection(WireProtocol.OPAQUE, Reason.MISSED)
_CONTRADICTED: Final = Detection(WireProtocol.OPAQUE, Reason.CONTRADICTED)
_HELLO: Final = Detection(WireProtocol.TLS, Reason.FOUND)


class _PendingConnection(NamedTuple):
    stream: FirstBytes
    since: float
    bound: Bound

    @property
    def held(self) -> int:
        return self.stream.held


class Classifier:
    """Classifies packets by the routing in force, which is replaced by setting :attr:`routing`."""

    def __init__(
        self,
        routing: Routing,
        flow_observer: FlowObserver,
        sockets: Sockets,
        *,
        detection_timeout: float,
        misses_nothing: bool = False,
        max_openings: int = MAX_OPENINGS,
        max_chosen: int = MAX_CHOSEN,
        max_held: int = MAX_HELD,
        max_decided: int = MAX_DECIDED,
    ) -> None:
        """``detection_timeout`` in seconds, counted from a connection's first bytes. ``misses_nothing``: what is not
        shown does not pass. So the first packet that is shown of a connection is its first, however often it was sent.
        """
        self._misses_nothing = misses_nothing
        self._class_cache = ClassCache(routing)
        self._flow_observer = flow_observer
        self._timeout = detection_timeout
        longest = detection_timeout + PATIENCE_S
        self._pending = PendingFlows[_PendingConnection](most=max_openings, most_held=max_held, longest=longest)
        self._chosen = ChosenFlows(sockets, most=max_chosen, most_held=max_held)
        self._decided = BoundedMap[bytes, DetectedFlow](max_decided)
        self.quic = QuicFlows(flow_observer, detection_timeout=detection_timeout)

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
        return len(self._pending)

    @property
    def held(self) -> int:
        """Bytes held for them."""
        return self._pending.held

    @property
    def cached(self) -> int:
        """Number of decided connections whose content is still known."""
        return len(self._decided)

    @property
    def pending(self) -> tuple[int, int]:
        """Number of connections and flows that are shown, and the bytes held for them."""
        return (
            len(self._pending) + len(self._chosen) + self.quic.undecided,
            self.held + self._chosen.held + self.quic.held,
        )

    def known(self, flow: bytes, transport: TransportProtocol = TransportProtocol.TCP) -> DetectedFlow | None:
        """The content of a decided connection, and which side opened it, if still remembered."""
        return self.quic.known(flow) if transport is TransportProtocol.UDP else self._decided.get(flow)

    def classify(self, packet: bytes, mark: int, now: float, bound: Bound = Bound.OUTBOUND) -> int:
        """The mark with which to release a packet. ``packet`` begins with its IP header; ``now`` is monotonic seconds.

        ``bound`` is the direction of the connection, which is that of the packet. A mark with the state "decided" is
        saved for the connection, and so is the class of one with "chosen"; unless it is decided, the next packet is
        queued too.
        """
        first = mark & STATE_MASK == FIRST.value
        was_chosen = mark & STATE_MASK == CHOSEN.value
        undecided = mark & ~STATE_MASK
        ip = read_ip(packet, 0)
        if ip is None or ip.fragment is not None:
            return undecided
        at = ip.start
        if ip.protocol == UDP and min(ip.end, len(packet)) >= at + _UDP_HEADER:
            flow = ip.addresses + packet[at : at + 4]
            return self.quic.classify(flow, packet[at + _UDP_HEADER : ip.end], mark, now, bound, self._class_cache)
        if ip.protocol != TCP:
            return undecided
        if min(ip.end, len(packet)) < at + _TCP_HEADER:
            return undecided
        flow = ip.addresses + packet[at : at + 4]
        text = packet[at + (packet[at + 12] >> 4) * 4 : ip.end]
        flags = packet[at + 13]
        sequence = int.from_bytes(packet[at + 4 : at + 8], "big")
        if flags & _SYN:
            sequence = (sequence + 1) % _SEQUENCES
        if first or (self._misses_nothing and not was_chosen and self._is_new(flow)):
            self._forget(flow)
            if flags & _URG:
                return self._decide(flow, DetectedFlow(_CONTRADICTED, bound), 0.0, mark)
            detection = detect_repeated(text)
            if detection is not None:
                known = DetectedFlow(detection, bound)
                decided = self._decide(flow, known, 0.0, mark)
                if not may_say_more(known):
                    return decided
                return self._after(flow, self._chosen.begin_with(flow, sequence, text, now, known), known, decided)
            opening = self._open(flow, sequence, now, bound)
        else:
            remembered = self._decided.get(flow)
            if remembered is not None:
                mark = mark & ~OURS | self._class_cache.choose(flow, remembered).mark
            if was_chosen or flow in self._chosen:
                mark = mark & ~STATE_MASK | DECIDED.value
                urgent = Next(over=True, doubt=Doubt.CONTRADICTED)
                said = urgent if flags & _URG else self._chosen.read(flow, sequence, text, now, bound)
                return self._after(flow, said, remembered or DetectedFlow(_HELLO, bound), mark)
            if remembered is not None:
                return mark
            waiting = self._pending.get(flow)
            if waiting is not None and flags & _URG:
                self._forget(flow)
                return self._decide(flow, DetectedFlow(_CONTRADICTED, bound), 0.0, mark)
            if waiting is None:
                return self._decide(flow, DetectedFlow(_UNSEEN, bound), 0.0, mark)
            opening = waiting
        return self._read(flow, opening, sequence, text, flags, mark, now)

    def choose_again(
        self,
        flow: bytes,
        mark: int,
        known_marks: Container[int],
        transport: TransportProtocol = TransportProtocol.TCP,
    ) -> int:
        """The new mark of a connection that is decided or chosen, and whose present one is ``mark``.

        It is chosen by content, if still known. Otherwise the connection keeps its class if that is one of
        ``known_marks``, and goes to the default class if not.
        """
        known = self.known(flow, transport)
        if known is not None:
            return mark & ~CLASS_MASK | self._class_cache.choose(flow, known).mark
        if mark & CLASS_MASK | DECIDED.value in known_marks:
            return mark
        return mark & ~CLASS_MASK | self.routing.mark_of(DEFAULT_CLASS)

    def give_up_silent(self, now: float) -> None:
        """Classify silent connections by port. Call periodically from the thread that calls :meth:`classify`."""
        for flow in self._pending.overdue(now):
            self._give_up(flow, now)
        self.quic.give_up_silent(now, self._class_cache)

    # one opening ---------------------------------------------------------------------------------------------------

    def _open(self, flow: bytes, sequence: int, now: float, bound: Bound) -> _PendingConnection:
        opening = _PendingConnection(FirstBytes(sequence), now, bound)
        self._pending.add(flow, opening)
        self._make_room(flow, now)
        return opening

    def _make_room(self, flow: bytes, now: float) -> None:
        for other in self._pending.surplus(flow):
            self._give_up(other, now)

    def _read(
        self, flow: bytes, opening: _PendingConnection, sequence: int, text: bytes, flags: int, mark: int, now: float
    ) -> int:
        stream = opening.stream
        before = stream.held
        detection = stream.add(sequence, text) if text else None
        self._pending.grew(opening, before)
        if detection is None:
            if flags & _FIN and not stream.has_gap:
                detection = stream.finish(Reason.EOF)
            elif now - opening.since > self._timeout:
                detection = stream.finish(Reason.TIMEOUT)
        if detection is None:
            self._make_room(flow, now)
            return mark & ~STATE_MASK
        self._forget(flow)
        known = DetectedFlow(detection, opening.bound)
        decided = self._decide(flow, known, now - opening.since, mark)
        if not may_say_more(known):
            return decided
        return self._after(flow, self._chosen.begin(flow, stream, now, known), known, decided)

    def _give_up(self, flow: bytes, now: float) -> None:
        """Table full or timeout: decide with what is known; applied to its next packet."""
        opening = self._pending.pop(flow)
        if opening is None:
            return
        expired = now - opening.since > self._timeout
        detection = opening.stream.finish(Reason.TIMEOUT if expired else Reason.LIMIT)
        self._decide(flow, DetectedFlow(detection, opening.bound), now - opening.since, 0)

    # one chosen connection -----------------------------------------------------------------------------------------

    def _after(self, flow: bytes, said: Next, known: DetectedFlow, mark: int) -> int:
        """The mark of a packet with which, or behind which, a name has come; ``mark`` is that of a decided one."""
        hello = said.hello
        if said.doubt is not Doubt.NONE:
            self._chosen.forget(flow)
            unknown = _CONTRADICTED if said.doubt is Doubt.CONTRADICTED else _UNSEEN
            return self._stricter(flow, known._replace(detection=unknown), mark)
        if hello is not None:
            detection = known.detection._replace(sni=hello.sni, alpn=hello.alpn, ech=hello.ech)
            mark = self._stricter(flow, known._replace(detection=detection), mark)
        return mark if said.over else mark & ~STATE_MASK | CHOSEN.value

    def _stricter(self, flow: bytes, known: DetectedFlow, mark: int) -> int:
        """The mark of the class of this content, if that is stricter than the class in ``mark``; else ``mark``."""
        routing = self.routing
        present = routing.ids.name_of(class_id_of(mark))
        class_name = self._class_cache.choose(flow, known).class_name
        laxer = present is None or routing.table.is_laxer(present, class_name)
        return self._decide(flow, known, 0.0, mark) if laxer else mark

    def _is_new(self, flow: bytes) -> bool:
        return flow not in self._chosen and self._decided.get(flow) is None and self._pending.get(flow) is None

    def _forget(self, flow: bytes) -> None:
        self._chosen.forget(flow)
        self._decided.pop(flow)
        self._pending.pop(flow)

    def _decide(self, flow: bytes, known: DetectedFlow, seconds: float, mark: int) -> int:
        choice = self._class_cache.choose(flow, known)
        self._decided[flow] = known
        self._flow_observer.detected(known.detection, seconds)
        self._flow_observer.stepped_aside(flow, known, choice)
        return mark & ~OURS | choice.mark
