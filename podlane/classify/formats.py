"""The two formats of captures: pcap and pcapng (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng). Pure but for reads.

Of pcapng the blocks with packets and with interfaces count; all others are passed over. Interfaces are numbered per
section, each of which has a byte order of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

MAX_PACKET: Final = 1 << 18
"""Maximum bytes of a packet: tcpdump's maximum (its MAXIMUM_SNAPLEN)."""
PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
PCAP: Final = {
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
}
"""Magic numbers: microseconds and nanoseconds, in either byte order."""
_BYTE_ORDERS: Final = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_LINK_TYPE: Final = 0xFFFF
"""The rest of pcap's link-type field tells of frame check sequences."""
_SECTION: Final = int.from_bytes(PCAPNG, "big")
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6
_TIME_RESOLUTION: Final = 9
"""if_tsresol"""
_MIN_BLOCK: Final = 12
_MIN_SECTION: Final = 28
_MAJOR_VERSION: Final = 1


class CapturedFrame(NamedTuple):
    """One captured frame: link type, captured bytes, original length, and time (in seconds)."""

    link_type: int
    data: bytes
    wire_bytes: int
    when: float


class CutOffError(Exception):
    """The file ends in the middle of a record."""


class DamagedError(Exception):
    """The record cannot be what it says; the text says more, or is empty."""


class Stream(Protocol):
    """What a reader reads from; it sets where the present record begins."""

    position: int
    record_start: int

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end."""


class PcapReader:
    """Reads a pcap file; the stream is behind its magic number ``magic``. Raises :class:`CutOffError`."""

    def __init__(self, stream: Stream, magic: bytes) -> None:
        self.complaint: str | None = None
        """What is wrong with packets that were left out, if any were."""
        self._stream = stream
        order, self._fraction = PCAP[magic]
        self._record = struct.Struct(order + "IIII")
        *_, link_type = struct.unpack(order + "HHiIII", _exactly(stream, 20))
        self._link_type = link_type & _LINK_TYPE

    def frames(self) -> Iterator[CapturedFrame]:
        """Its frames, the last one cut off if it is. Raises :class:`CutOffError`, :class:`DamagedError`."""
        stream, record, fraction, link_type = self._stream, self._record, self._fraction, self._link_type
        while True:
            stream.record_start = stream.position
            head = stream.read(record.size)
            if not head:
                return
            if len(head) < record.size:
                raise CutOffError
            seconds, parts, captured, wire_bytes = record.unpack(head)
            if captured > MAX_PACKET:
                raise DamagedError(f"a packet claims {captured:,} bytes")
            data = stream.read(captured)
            yield CapturedFrame(link_type, data, wire_bytes, seconds + parts * fraction)
            if len(data) < captured:
                raise CutOffError


class _Interface(NamedTuple):
    link_type: int
    most: int
    resolution: int


class PcapngReader:
    """Reads a pcapng file; the stream is behind the type of its first block. Raises :class:`CutOffError` and
    :class:`DamagedError` if that is no section header."""

    def __init__(self, stream: Stream) -> None:
        self.complaint: str | None = None
        """What is wrong with packets that were left out, if any were."""
        self._stream = stream
        self._order = "<"
        self._interfaces: list[_Interface] = []
        self._begin_section()

    def frames(self) -> Iterator[CapturedFrame]:
        """Its frames. Raises :class:`CutOffError`, :class:`DamagedError`."""
        stream = self._stream
        while True:
            stream.record_start = stream.position
            head = stream.read(4)
            if not head:
                return
            if head == PCAPNG:
                self._begin_section()
                continue
            (kind,) = self._numbers("I", head)
            (length,) = self._numbers("I", _exactly(stream, 4))
            if length < _MIN_BLOCK:
                raise DamagedError
            body = _exactly(stream, length - _MIN_BLOCK)
            self._end_block(length)
            if kind == _INTERFACE:
                self._interfaces.append(self._interface(body))
            elif kind in (_PACKET, _SIMPLE_PACKET, _OLD_PACKET) and (frame := self._frame(kind, body)):
                yield frame

    def _begin_section(self) -> None:
        length, order = _exactly(self._stream, 4), _exactly(self._stream, 4)
        if order not in _BYTE_ORDERS:
            raise DamagedError
        self._order = _BYTE_ORDERS[order]
        self._interfaces.clear()
        (size,) = self._numbers("I", length)
        if size < _MIN_SECTION:
            raise DamagedError
        (major,) = self._numbers("H", _exactly(self._stream, 2))
        if major != _MAJOR_VERSION:
            raise DamagedError
        rest = size - 18  # the type, both lengths, the byte order and the version
        if len(self._stream.read(rest)) < rest:
            raise DamagedError
        self._end_block(size)

    def _end_block(self, length: int) -> None:
        _exactly(self._stream, -length % 4)
        if self._numbers("I", _exactly(self._stream, 4)) != (length,):
            raise DamagedError

    def _interface(self, body: bytes) -> _Interface:
        link_type, most = self._numbers("HxxI", body[:8])
        resolution, at = 1_000_000, 8
        while at + 4 <= len(body):
            code, size = self._numbers("HH", body[at : at + 4])
            if code == _TIME_RESOLUTION and size == 1 and at + 4 < len(body):
                exponent = body[at + 4]
                resolution = (2 if exponent & 0x80 else 10) ** (exponent & 0x7F)
            if not code:
                break
            at += 4 + size + -size % 4
        return _Interface(link_type, most or MAX_PACKET, resolution)

    def _frame(self, kind: int, body: bytes) -> CapturedFrame | None:
        number = high = low = 0
        if kind == _SIMPLE_PACKET:
            (wire_bytes,) = self._numbers("I", body[:4])
            at, captured = 4, wire_bytes
        else:
            layout = "5I" if kind == _PACKET else "HxxIIII"
            number, high, low, captured, wire_bytes = self._numbers(layout, body[:20])
            at = 20
        if number >= len(self._interfaces):
            self.complaint = self.complaint or f"a packet names interface {number} of {len(self._interfaces)}"
            return None
        interface = self._interfaces[number]
        if kind == _SIMPLE_PACKET:  # it has no time, and its interface says how much was captured
            captured = min(captured, interface.most)
        data = body[at : at + min(captured, MAX_PACKET)]
        return CapturedFrame(interface.link_type, data, wire_bytes, (high << 32 | low) / interface.resolution)

    def _numbers(self, layout: str, data: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack(self._order + layout, data)
        except struct.error:  # the block is too small for it, or the file ends
            raise CutOffError if len(data) < 4 else DamagedError from None


def _exactly(stream: Stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise CutOffError
    return data
