"""inotify(7) by ctypes: the few calls that :mod:`daemon.file_watch` needs, and the events as data."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

# linux/inotify.h
MODIFY: Final = 0x002
ATTRIB: Final = 0x004
CLOSE_WRITE: Final = 0x008
MOVED_FROM: Final = 0x040
MOVED_TO: Final = 0x080
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x0100_0000

_HEADER: Final = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_CHUNK: Final = 1 << 14
"""Bytes for some hundred events. Further events are read next."""

_libc = ctypes.CDLL(None, use_errno=True)


class InotifyEvent(NamedTuple):
    """An event: the number of the watch (-1 with OVERFLOW), its mask, and in a directory the name of the entry."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify instance. Raises OSError with the kernel's errno: EMFILE and ENOSPC are limits (fs.inotify.*)."""

    def __init__(self) -> None:
        self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        """The descriptor, readable when there are events."""
        return self._descriptor

    def add(self, path: Path, mask: int) -> int:
        """Watch a path; return the number of the watch. The same inode has the same number, and its last mask."""
        return _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask), str(path))

    def remove(self, watch: int) -> None:
        """Remove a watch. If it was removed by the kernel, this is not an error."""
        _libc.inotify_rm_watch(self._descriptor, watch)

    def read(self) -> list[InotifyEvent]:
        """The pending events; empty if there are none."""
        try:
            return list(parse(os.read(self._descriptor, _CHUNK)))
        except BlockingIOError:
            return []


def parse(data: bytes) -> Iterator[InotifyEvent]:
    """Parse the result of read(2), which has whole events only."""
    at = 0
    while at < len(data):
        watch, mask, _, size = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name = data[at : at + size].rstrip(b"\0")
        yield InotifyEvent(watch, mask, os.fsdecode(name))
        at += size


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
