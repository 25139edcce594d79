"""Reassembles IP fragments, IPv4 and IPv6, in any order and in bounded memory. Pure.

Of overlapping bytes the first ones count. A truncated fragment keeps its place, so the datagram has its full length;
its bytes end at the first missing one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from datapath.protocols.packets import Payload, behind_extensions

MAX_DATAGRAMS: Final = 256
"""Maximum number of incomplete datagrams, 32 MiB; the oldest is dropped for a new one."""
_MAX_DATAGRAM: Final = 65_535
"""Longest IP payload in bytes that fragments can make (RFC 791 3.1, RFC 8200 4.5)."""
_MISSING: Final = b"\0"
_CAPTURED: Final = b"\1"
_NOT_CAPTURED: Final = b"\2"
"""The state of one byte of a datagram; the last: its fragment was seen, but captured without it."""
_GAPS: Final = re.compile(_MISSING + b"+")


class Whole(NamedTuple):
    """A reassembled datagram: its payload, the number of frames, and their bytes on the wire."""

    payload: Payload
    frames: int
    wire_bytes: int


@dataclass(slots=True)
class _Datagram:
    data: bytearray = field(default_factory=bytearray)
    known: bytearray = field(default_factory=bytearray)
    """For each byte of ``data`` whether it is there."""
    covered: int = 0
    """Bytes that are not missing: with fewer than ``size`` it cannot be whole."""
    protocol: int | None = None
    size: int | None = None
    frames: int = 0
    wire_bytes: int = 0

    def put(self, offset: int, end: int, captured: bytes) -> None:
        """Fill the missing places up to ``end``; ``captured`` may be shorter."""
        more = bytes(max(end - len(self.data), 0))
        self.data += more
        self.known += more
        for gap in _GAPS.finditer(self.known[offset:end]):
            piece, size = captured[gap.start() : gap.end()], gap.end() - gap.start()
            at = offset + gap.start()
            self.data[at : at + len(piece)] = piece
            self.known[at : at + size] = _CAPTURED * len(piece) + _NOT_CAPTURED * (size - len(piece))
            self.covered += size

    def whole(self) -> bytes | None:
        """When no byte is missing: those from the first one on that were captured."""
        if self.size is None or self.covered < self.size or _MISSING in self.known[: self.size]:
            return None
        cut = self.known.find(_NOT_CAPTURED, 0, self.size)
        return bytes(self.data[: self.size if cut < 0 else cut])


class Reassembler:
    """Takes fragments; returns datagrams when they are complete.

    ``given_up`` counts datagrams that stayed incomplete, ``broken`` invalid fragments.
    """

    def __init__(self, max_datagrams: int = MAX_DATAGRAMS) -> None:
        self._max = max_datagrams
        self._open: dict[tuple[bytes, int, bytes], _Datagram] = {}
        self.given_up = 0
        self.broken = 0

    def add(self, payload: Payload, wire_bytes: int) -> Whole | None:
        """Take the fragment that ``payload`` is; the datagram when this made it whole."""
        place = payload.fragment
        assert place is not None
        # IPv6: only the first fragment's next header counts (RFC 8200 4.5), so it is no part of the key.
        ipv4 = len(payload.addresses) == 8
        key = (payload.addresses, payload.protocol if ipv4 else -1, place.identification)
        size = payload.end - payload.start
        if size <= 0 or place.offset + size > _MAX_DATAGRAM:
            self.broken += 1
            return None
        datagram = self._open.get(key)
        if datagram is None:
            while len(self._open) >= self._max:
                self._open.pop(next(iter(self._open)))
                self.given_up += 1
            datagram = self._open[key] = _Datagram()
        end = place.offset + size
        datagram.frames += 1
        datagram.wire_bytes += wire_bytes
        datagram.put(place.offset, end, payload.data[payload.start : payload.end])
        if place.offset == 0:
            datagram.protocol = payload.protocol
        if not place.more:
            datagram.size = end
        data = datagram.whole()
        if data is None or datagram.protocol is None:
            return None
        del self._open[key]
        made = Payload(payload.addresses, datagram.protocol, data, 0, datagram.size or len(data))
        inner = made if ipv4 else behind_extensions(made)
        if inner is None:
            self.broken += datagram.frames
            return None
        return Whole(inner, datagram.frames, datagram.wire_bytes)

    def finish(self) -> None:
        """The capture is over: what is still incomplete stays so."""
        self.given_up += len(self._open)
        self._open.clear()
