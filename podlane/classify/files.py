"""Capture files: pcap and pcapng, also compressed by gzip, also from a pipe. The only I/O of this package.

scapy's raw readers read the formats, and leave packets as bytes. The alternative dpkt assigns every packet of a pcapng
file to the first interface, loses the original length of a packet, and is slower. Added here: interfaces are numbered
per section of a pcapng file, and a length in a damaged file cannot cause an unbounded allocation.
"""

from __future__ import annotations

import gzip
import logging
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from podlane.errors import CaptureError, ToolMissingError

STANDARD_INPUT: Final = "-"
MAX_PACKET: Final = 1 << 18
"""Maximum bytes of a packet: tcpdump's maximum (its MAXIMUM_SNAPLEN)."""
_MAX_READ: Final = 16 << 20
"""Maximum bytes read at once. pcapng has larger blocks than packets (names, keys), but none as large as this."""
_BUFFER: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_PCAP: Final = (b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1")
"""Magic numbers: microseconds and nanoseconds, in either byte order."""
_LINK_TYPE: Final = 0xFFFF
"""The rest of pcap's link-type field tells of frame check sequences."""


class CapturedFrame(NamedTuple):
    """One captured frame: link type, captured bytes, original length, and time (in seconds)."""

    link_type: int
    data: bytes
    wire_bytes: int
    when: float


class _Stream:
    """The stream that scapy reads: reads are bounded, and the start of the current record is known."""

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        self._file = file
        self._head = head
        self.name = "capture"
        self.position = 0
        self.record_start = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes. Raises CaptureError if that exceeds the maximum of a record."""
        if not 0 <= size <= _MAX_READ:
            raise CaptureError(f"it is damaged near byte {self.position:,}: a record claims {size:,} bytes")
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            data += self._file.read(size - len(data))
        else:
            data = self._file.read(size)
        self.position += len(data)
        return data

    def close(self) -> None:
        """Does nothing: the stream is not scapy's to close."""


class _Warnings(logging.Handler):
    """Collects scapy's warnings about a file."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class CaptureFile:
    """An open capture. Iterate over its frames, then read ``damage``.

    Raises :class:`CaptureError` if it cannot be read or is not a capture.
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == STANDARD_INPUT else path
        self.damage: str | None = None
        """The problem at the file's end, set after iterating; None: it is complete."""
        self._raw = self._open(path)
        self.size = _size(self._raw)
        """The size of the file on disk in bytes; None if unknown."""
        try:
            self._start()
        except BaseException:  # also on an interrupt: this is the only reference to the file
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    @property
    def position(self) -> int:
        """The current position in the file on disk (compressed or not), in bytes."""
        return self._outer.position

    def __iter__(self) -> Iterator[CapturedFrame]:
        reader, pcapng = self._reader, self._pcapng
        with _scapy_warnings() as warnings:
            try:
                yield from _pcapng_frames(reader) if pcapng else _pcap_frames(reader)
                cut = self._stream.position != self._stream.record_start
                if self._stream.read(1):
                    self.damage = f"it is damaged near byte {self._stream.record_start:,}"
                elif cut:
                    self.damage = "it is cut off in the middle of a packet"
                elif warnings.texts:
                    self.damage = f"parts of it cannot be read ({warnings.texts[0]})"
            except CaptureError as error:
                self.damage = str(error)
            except self._failure:  # in the middle of the file, of a section that begins there
                self.damage = f"it is damaged near byte {self._stream.record_start:,}"
            except (EOFError, OSError, zlib.error) as error:
                self.damage = f"it cannot be read on after byte {self._stream.position:,}: {error}"

    def _open(self, path: str) -> IO[bytes]:
        if path == STANDARD_INPUT:
            if sys.stdin.isatty():
                raise CaptureError("Standard input is a terminal. Pipe a capture into it: tcpdump -w - | podlane ...")
            return sys.stdin.buffer
        try:
            return Path(path).open("rb", buffering=_BUFFER)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CaptureError(f"{path} cannot be read: {reason}. Check the path and its permissions.") from None

    def _start(self) -> None:
        """Detect the format, and set up scapy's reader for it."""
        try:
            head = self._raw.read(len(_PCAPNG))
            self._stream = self._outer = _Stream(self._raw, head)
            if head.startswith(_GZIP):
                unpacked: Any = gzip.GzipFile(fileobj=cast("IO[bytes]", self._outer))
                head = unpacked.read(len(_PCAPNG))
                self._stream = _Stream(unpacked, head)
        except (EOFError, OSError, zlib.error) as error:
            raise CaptureError(f"{self.name} cannot be read: {error}.") from None
        if not head:
            raise CaptureError(f"{self.name} is empty. Capture something first: tcpdump -w FILE.")
        self._pcapng = head == _PCAPNG
        if not self._pcapng and head not in _PCAP:
            raise CaptureError(
                f"{self.name} is not a capture: it begins with {head.hex(' ')}, which is neither pcap nor pcapng. "
                "Other formats: editcap -F pcapng FILE NEW."
            )
        raw_pcap, raw_pcapng, self._failure = _scapy_readers()
        with _scapy_warnings():
            try:
                self._reader = (raw_pcapng if self._pcapng else raw_pcap)(self._stream)
            except (self._failure, EOFError, CaptureError):
                raise CaptureError(
                    f"{self.name} is not a capture, or is cut off in its header. Record it again: tcpdump -w FILE."
                ) from None


def _size(file: IO[bytes]) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


def _pcap_frames(reader: Any) -> Iterator[CapturedFrame]:
    link_type = reader.linktype & _LINK_TYPE
    fraction = 1e-9 if reader.nano else 1e-6
    stream = reader.f
    while True:
        stream.record_start = stream.position
        try:
            data, (seconds, parts, wire_bytes, captured) = reader._read_packet(MAX_PACKET)
        except EOFError:
            return
        if captured > MAX_PACKET:
            raise CaptureError(f"it is damaged near byte {stream.record_start:,}: a packet claims {captured:,} bytes")
        yield CapturedFrame(link_type, data, wire_bytes, seconds + parts * fraction)
        if len(data) < captured:
            return


def _pcapng_frames(reader: Any) -> Iterator[CapturedFrame]:
    while True:
        try:
            data, about = reader._read_packet(MAX_PACKET)
        except EOFError:
            return
        # A simple packet block has no time.
        when = 0.0 if about.tshigh is None else ((about.tshigh << 32) | about.tslow) / about.tsresol
        yield CapturedFrame(about.linktype, data, about.wirelen, when)


def _scapy_readers() -> tuple[Any, Any, type[Exception]]:
    """scapy's readers of pcap and pcapng, and its exception."""
    try:
        from scapy.error import Scapy_Exception
        from scapy.utils import RawPcapNgReader, RawPcapReader
    except ImportError:
        raise ToolMissingError(
            "Reading captures needs scapy, which is not installed. Install it: pip install 'podlane[captures]'"
        ) from None

    class SectionedReader(RawPcapNgReader):
        """Each section numbers its interfaces from 0 (pcapng 4.2), so a new section forgets the old ones."""

        def _read_block_shb(self) -> None:
            self.interfaces.clear()
            super()._read_block_shb()

        def _read_block_dsb(self, _block: bytes, _size: int) -> None:
            """Keys of TLS are not needed, and scapy wants another module to be loaded before it keeps them."""

        def _read_block(self, size: int = MAX_PACKET) -> Any:
            stream: Any = self.f
            stream.record_start = stream.position
            return super()._read_block(size)

    return RawPcapReader, SectionedReader, Scapy_Exception


@contextmanager
def _scapy_warnings() -> Iterator[_Warnings]:
    """Collect scapy's warnings instead of printing them."""
    logger = logging.getLogger("scapy")
    handler, propagate = _Warnings(), logger.propagate
    others = logger.handlers[:]
    logger.handlers[:] = [handler]
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.handlers[:] = others
        logger.propagate = propagate
