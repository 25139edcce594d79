"""TLS connections whose class is chosen, and whose second ClientHello may still come. Pure.

A server may ask for another hello (HelloRetryRequest), and OpenSSL serves the name of that one. So a connection that
begins with a ClientHello is in the class of its name at once, but its packets with data are shown until the client has
sent something else, which it mostly does in its next packet (:mod:`datapath.protocols.second_hello`). There is no time
limit, since a program can wait as long as the server does. The oldest connections are forgotten first; the next packet
of such a one is looked at as if it were the first behind the hello.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from datapath.protocols.client_hello import ClientHello, is_one_client_hello
from datapath.protocols.detect import Protocol, Reason
from datapath.protocols.second_hello import MAX_BYTES, SecondHello, is_over
from datapath.protocols.sniff import EARLY_DATA
from datapath.protocols.streams import FirstBytes
from datapath.stepaside.class_cache import DetectedFlow
from datapath.stepaside.pending_flows import PendingFlows

_FOREVER: Final = float("inf")
_SEQUENCES: Final = 1 << 32


class Next(NamedTuple):
    """What a packet behind the hello says: a second hello, if it completes one; whether the search is over; whether
    that is because bytes passed unseen."""

    hello: ClientHello | None
    over: bool
    missed: bool = False


_OVER: Final = Next(None, over=True)


class _Hello(NamedTuple):
    """What is kept of most connections: where the hello ended, and whether it announced early data."""

    end: int
    early_data: bool
    since: float
    held: int = 0


class _Stream(NamedTuple):
    """A connection whose bytes take more than a look."""

    bytes: FirstBytes
    second: SecondHello
    since: float

    @property
    def held(self) -> int:
        return self.bytes.held


class ChosenFlows:
    """The table."""

    def __init__(self, *, most: int, most_held: int) -> None:
        """Bounds: ``most`` connections, ``most_held`` bytes in all."""
        self._table = PendingFlows[_Hello | _Stream](most=most, most_held=most_held, longest=_FOREVER)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, flow: bytes) -> bool:
        return self._table.get(flow) is not None

    @property
    def held(self) -> int:
        """Bytes held for all of them."""
        return self._table.held

    def begin_with(self, flow: bytes, sequence: int, data: bytes, now: float) -> Next:
        """Watch a connection whose first packet had ``data``, with a whole ClientHello."""
        if is_one_client_hello(data):
            self._add(flow, _Hello((sequence + len(data)) % _SEQUENCES, EARLY_DATA in data, now))
            return Next(None, over=False)
        stream = FirstBytes(sequence)
        stream.take(sequence, data)
        return self.begin(flow, stream, now)

    def begin(self, flow: bytes, stream: FirstBytes, now: float) -> Next:
        """Watch a connection whose first bytes, up to a ClientHello at least, are in ``stream``."""
        second = SecondHello()
        hello = second.feed(bytes(stream.seen))
        if hello is None and not second.done:
            self._watch(flow, stream, second, now)
        return Next(hello, second.done)

    def read(self, flow: bytes, sequence: int, data: bytes, now: float) -> Next:
        """Look at a packet behind the hello. A connection that is not known begins with it."""
        known = self._table.get(flow)
        if known is None:
            known = _Hello(sequence, early_data=False, since=now)
        if isinstance(known, _Hello):
            if sequence == known.end and not known.early_data and is_over(data):
                self._table.pop(flow)
                return _OVER
            self._table.pop(flow)
            second = SecondHello(behind=True, early_data=known.early_data)
            known = self._watch(flow, FirstBytes(known.end), second, known.since)
        stream = known.bytes
        before = known.held
        fresh = stream.take(sequence, data)
        self._table.grew(known, before)
        hello = known.second.feed(fresh) if fresh else None
        over = known.second.done or stream.missed
        if over:
            self._table.pop(flow)
        return Next(hello, over, missed=over and not known.second.done)

    def forget(self, flow: bytes) -> None:
        """Forget a connection, if it is there."""
        self._table.pop(flow)

    def _watch(self, flow: bytes, stream: FirstBytes, second: SecondHello, since: float) -> _Stream:
        stream.limit = MAX_BYTES
        watched = _Stream(stream, second, since)
        self._add(flow, watched)
        return watched

    def _add(self, flow: bytes, known: _Hello | _Stream) -> None:
        self._table.add(flow, known)
        for other in self._table.surplus(flow):
            self._table.pop(other)


def may_say_more(known: DetectedFlow) -> bool:
    """Whether what decided a connection is a hello behind which another one may come."""
    return known.detection.protocol is Protocol.TLS and known.detection.reason is Reason.FOUND
