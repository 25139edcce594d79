"""TCP connections whose class is chosen by their first bytes, which may not be what the server reads. Pure.

Two things can change what a connection's name is, and until neither can, its packets with data are shown:

* **The bytes may not arrive.** What is lost is sent again. A program can see to it that a packet is lost, and that
  other bytes are sent then: sendfile(2) and MSG_ZEROCOPY do not copy. A remote client can send what the Pod's TCP drops
  (with an old timestamp, RFC 7323 5, or from before the stream), and then something else. So bytes that come again are
  compared, and the socket is asked whether they have arrived (:mod:`datapath.stepaside.tcp_sockets`).
* **A second ClientHello may follow.** A server may ask for one (HelloRetryRequest), and OpenSSL serves the name of that
  one (:mod:`datapath.protocols.second_hello`).

There is no time limit, since a program can wait as long as the server does. The oldest connections are forgotten first;
the next packet of such a one is looked at as if it were the first behind the bytes that decided.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from datapath.protocols.client_hello import ClientHello, is_one_client_hello
from datapath.protocols.detect import Protocol, Reason
from datapath.protocols.second_hello import GLANCE, MAX_BYTES, SecondHello, is_over
from datapath.protocols.sniff import EARLY_DATA
from datapath.protocols.streams import FirstBytes, distance
from datapath.stepaside.class_cache import DetectedFlow
from datapath.stepaside.pending_flows import PendingFlows
from datapath.stepaside.tcp_sockets import Sockets
from traffic_policy.policy import Bound

_FOREVER: Final = float("inf")


class Doubt(enum.Enum):
    """Why what has been read may not be what the server reads."""

    NONE = enum.auto()
    MISSED = enum.auto()
    """Bytes passed unseen."""
    CONTRADICTED = enum.auto()
    """Other bytes came in their place."""


class Next(NamedTuple):
    """What a packet behind the first bytes says: a second hello, if it completes one; whether nothing more can come;
    and whether what was read is in doubt."""

    hello: ClientHello | None = None
    over: bool = False
    doubt: Doubt = Doubt.NONE


class _Chosen(NamedTuple):
    """A connection of which nothing more is to be read: what decided it, from the stream's first byte on."""

    base: int
    """The sequence number of that byte."""
    data: bytes
    since: float
    bound: Bound
    hello: bool = False
    """It is one ClientHello, without early data, and what follows has not been looked at."""

    @property
    def held(self) -> int:
        return len(self.data)


class _Searched(NamedTuple):
    """A connection in which a second ClientHello is searched by more than a glance."""

    base: int
    stream: FirstBytes
    second: SecondHello
    since: float
    bound: Bound

    @property
    def held(self) -> int:
        return self.stream.held


class ChosenFlows:
    """The table."""

    def __init__(self, sockets: Sockets, *, most: int, most_held: int) -> None:
        """Bounds: ``most`` connections, ``most_held`` bytes in all."""
        self._sockets = sockets
        self._table = PendingFlows[_Chosen | _Searched](most=most, most_held=most_held, longest=_FOREVER)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, flow: bytes) -> bool:
        return self._table.get(flow) is not None

    @property
    def held(self) -> int:
        """Bytes held for all of them."""
        return self._table.held

    def begin_with(self, flow: bytes, sequence: int, data: bytes, now: float, known: DetectedFlow) -> Next:
        """Watch a connection whose first packet had ``data``, which decided."""
        tls = known.detection.protocol is Protocol.TLS
        if tls and (EARLY_DATA in data or not is_one_client_hello(data)):
            stream = FirstBytes(sequence)
            stream.take(sequence, data)
            return self.begin(flow, stream, now, known)
        self._put(flow, _Chosen(sequence, data, now, known.bound, tls))
        return Next()

    def begin(self, flow: bytes, stream: FirstBytes, now: float, known: DetectedFlow) -> Next:
        """Watch a connection whose first bytes, up to those that decided at least, are in ``stream``."""
        base = stream.base
        assert base is not None  # it has bytes
        if stream.contradicted:
            return Next(over=True, doubt=Doubt.CONTRADICTED)
        if known.detection.protocol is not Protocol.TLS:
            self._put(flow, _Chosen(base, bytes(stream.seen), now, known.bound))
            return Next()
        second = SecondHello()
        hello = second.feed(bytes(stream.seen))
        stream.limit = MAX_BYTES
        self._search(flow, _Searched(base, stream, second, now, known.bound))
        return Next(hello)

    def read(self, flow: bytes, sequence: int, data: bytes, now: float, bound: Bound) -> Next:
        """Look at a packet behind the first bytes. A connection that is not known begins with it."""
        known = self._table.get(flow)
        if known is None:
            known = _Chosen(sequence, b"", now, bound, hello=True)
            self._put(flow, known)
        if isinstance(known, _Searched):
            return self._read_on(flow, known, sequence, data)
        end = len(known.data)
        offset = distance(known.base, sequence)
        if known.hello and offset >= end:
            if offset == end and is_over(data):
                self._put(flow, known._replace(data=known.data + data[:GLANCE], hello=False))
                return Next()
            stream = FirstBytes(known.base)
            stream.limit = MAX_BYTES
            stream.take(known.base, known.data)
            searched = _Searched(known.base, stream, SecondHello(behind=True), known.since, known.bound)
            return self._read_on(flow, searched, sequence, data)
        if offset < end:
            return Next() if known.data and _same(known.data, offset, data) else self._ended(flow, Doubt.CONTRADICTED)
        doubt = self._arrived(flow, known, offset, len(data))
        return Next() if doubt is None else self._ended(flow, doubt)

    def forget(self, flow: bytes) -> None:
        """Forget a connection, if it is there."""
        self._table.pop(flow)

    def _put(self, flow: bytes, known: _Chosen | _Searched) -> None:
        self._table.pop(flow)
        self._table.add(flow, known)
        for other in self._table.surplus(flow):
            self._table.pop(other)

    def _search(self, flow: bytes, searched: _Searched) -> None:
        """Keep a connection, as one of which nothing more is to be read when the search is over."""
        if searched.second.done:
            seen = bytes(searched.stream.seen)
            self._put(flow, _Chosen(searched.base, seen, searched.since, searched.bound))
        else:
            self._put(flow, searched)

    def _read_on(self, flow: bytes, known: _Searched, sequence: int, data: bytes) -> Next:
        stream = known.stream
        before = stream.held
        fresh = stream.take(sequence, data)
        if self._table.get(flow) is known:
            self._table.grew(known, before)
        if stream.contradicted:
            return self._ended(flow, Doubt.CONTRADICTED)
        hello = known.second.feed(fresh) if fresh else None
        if stream.missed and not known.second.done:
            return self._ended(flow, Doubt.MISSED)  # else who fills the queue could hide a second hello
        self._search(flow, known)
        return Next(hello)

    def _arrived(self, flow: bytes, known: _Chosen, offset: int, size: int) -> Doubt | None:
        """Whether what decided has arrived, asked at a packet behind it with ``size`` bytes; None: not yet."""
        end = len(known.data)
        if known.bound is Bound.OUTBOUND:
            waiting = self._sockets.unacknowledged(flow)
            # The program may have written more meanwhile: then more has been acknowledged than this says.
            return Doubt.NONE if waiting is None or offset + size - waiting >= end else None
        if offset != end:
            return None  # others are still on their way
        received = self._sockets.received(flow)
        if received is None or received == offset:
            return Doubt.NONE
        # What came first was dropped, or stood before the first byte of the stream.
        return Doubt.CONTRADICTED if received < offset else Doubt.MISSED

    def _ended(self, flow: bytes, doubt: Doubt) -> Next:
        self._table.pop(flow)
        return Next(over=True, doubt=doubt)


def _same(known: bytes, offset: int, data: bytes) -> bool:
    """Whether bytes that come again are those known; ``offset`` is where they begin.

    Some keep-alive probes have one byte, which stands where the SYN stood.
    """
    if offset < -1:
        return not data
    if offset < 0:
        data, offset = data[1:], 0
    part = known[offset : offset + len(data)]
    return data[: len(part)] == part


def may_say_more(known: DetectedFlow) -> bool:
    """Whether a name decided a connection: what has none goes by port, which any program may have."""
    return known.detection.reason is Reason.FOUND
