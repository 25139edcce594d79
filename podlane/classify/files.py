"""Capture files: pcap and pcapng, also compressed by gzip, also from a pipe. The only I/O of this package.

A length in a damaged file cannot cause an unbounded allocation.
"""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

from podlane.classify.formats import (
    PCAP,
    PCAPNG,
    CapturedFrame,
    CutOffError,
    DamagedError,
    PcapngReader,
    PcapReader,
)
from podlane.errors import CaptureError

STANDARD_INPUT: Final = "-"
_MAX_READ: Final = 16 << 20
"""Maximum bytes read at once. pcapng has larger blocks than packets (names, keys), but none as large as this."""
_BUFFER: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"


class _Stream:
    """A stream of which as much is read as a record can have, and that knows where the present record begins."""

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        self._file = file
        self._head = head
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
        try:
            yield from self._reader.frames()
            if self._reader.complaint is not None:
                self.damage = f"parts of it cannot be read ({self._reader.complaint})"
        except CutOffError:
            self.damage = "it is cut off in the middle of a packet"
        except DamagedError as error:
            more = f": {error}" if str(error) else ""
            self.damage = f"it is damaged near byte {self._stream.record_start:,}{more}"
        except CaptureError as error:
            self.damage = str(error)
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
        """Detect the format, and set up the reader for it."""
        try:
            head = self._raw.read(len(PCAPNG))
            self._stream = self._outer = _Stream(self._raw, head)
            if head.startswith(_GZIP):
                unpacked: Any = gzip.GzipFile(fileobj=cast("IO[bytes]", self._outer))
                head = unpacked.read(len(PCAPNG))
                self._stream = _Stream(unpacked, head)
        except (EOFError, OSError, zlib.error) as error:
            raise CaptureError(f"{self.name} cannot be read: {error}.") from None
        if not head:
            raise CaptureError(f"{self.name} is empty. Capture something first: tcpdump -w FILE.")
        if head != PCAPNG and head not in PCAP:
            raise CaptureError(
                f"{self.name} is not a capture: it begins with {head.hex(' ')}, which is neither pcap nor pcapng. "
                "Other formats: editcap -F pcapng FILE NEW."
            )
        self._stream.read(len(PCAPNG))
        try:
            self._reader = PcapngReader(self._stream) if head == PCAPNG else PcapReader(self._stream, head)
        except (CutOffError, DamagedError, EOFError, CaptureError):
            raise CaptureError(
                f"{self.name} is not a capture, or is cut off in its header. Record it again: tcpdump -w FILE."
            ) from None


def _size(file: IO[bytes]) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None
