"""IP fragments put together again, IPv4 and IPv6, in any order and in bounded memory. Pure.

Of bytes that come twice the first ones count. A fragment that was captured in part keeps its place, so the datagram
gets whole in length; its bytes end where the first ones are missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from podlane.captures.packets import Payload, behind_extensions

MAX_DATAGRAMS: Final = 256
"""Datagrams in the making at once, 16 MiB at most; the oldest is given up for a new one."""
_MAX_DATAGRAM: Final = 65_535
"""Longest IP payload in bytes that fragments can make (RFC 791 3.1, RFC 8200 4.5)."""
_MAX_PIECES: Final = 2048
"""Fragments of one datagram. The smallest link that IPv4 allows (68 bytes, RFC 791 3.2) makes 1,366."""


class Whole(NamedTuple):
    """A datagram put together: what it carries, the frames it came in, and their bytes on the wire."""

    payload: Payload
    frames: int
    wire_bytes: int


@dataclass(slots=True)
class _Datagram:
    pieces: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(offset, end): what was captured of it; in the order of arrival."""
    claimed: int = 0
    """Bytes of all pieces, overlaps counted twice: with fewer than ``size`` it cannot be whole."""
    protocol: int | None = None
    size: int | None = None
    frames: int = 0
    wire_bytes: int = 0

    def whole(self) -> bytes | None:
        """The bytes from the first one on when every byte's place is covered."""
        if self.size is None or self.claimed < self.size:
            return None
        data = bytearray()
        covered, unbroken = 0, True
        # Sorting is stable: of two that begin alike the one that came first is taken.
        for (offset, end), captured in sorted(self.pieces.items(), key=lambda piece: piece[0][0]):
            if offset > covered:
                return None
            if end <= covered:
                continue
            if unbroken:
                data += captured[covered - offset :]
                unbroken = len(data) == end
            covered = end
        return bytes(data[: self.size]) if covered >= self.size else None


class Reassembler:
    """Takes fragments; gives datagrams as they get whole. ``given_up`` counts those that never did."""

    def __init__(self, max_datagrams: int = MAX_DATAGRAMS) -> None:
        self._max = max_datagrams
        self._open: dict[tuple[bytes, int, bytes], _Datagram] = {}
        self.given_up = 0

    def add(self, payload: Payload, wire_bytes: int) -> Whole | None:
        """Take the fragment that ``payload`` is; the datagram when this made it whole."""
        place = payload.fragment
        assert place is not None
        # IPv6: only the first fragment's next header counts (RFC 8200 4.5), so it is no part of the key.
        ipv4 = len(payload.addresses) == 8
        key = (payload.addresses, payload.protocol if ipv4 else -1, place.identification)
        size = payload.end - payload.start
        if size <= 0 or place.offset + size > _MAX_DATAGRAM:
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
        if (place.offset, end) not in datagram.pieces and len(datagram.pieces) < _MAX_PIECES:
            datagram.pieces[place.offset, end] = payload.data[payload.start : payload.end]
            datagram.claimed += size
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
        return None if inner is None else Whole(inner, datagram.frames, datagram.wire_bytes)

    def finish(self) -> None:
        """The capture is over: what is still incomplete stays so."""
        self.given_up += len(self._open)
        self._open.clear()
