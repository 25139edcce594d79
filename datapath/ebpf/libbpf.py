"""A thin binding to libbpf: open and load an object, its maps, test runs. :mod:`datapath.ebpf.hooks` attaches programs.

libbpf 1.0 or later (Debian: libbpf1, which iproute2 needs too) is loaded when it is first used. Errors are
:class:`BpfError`, with what libbpf and the verifier said.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import threading
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from traffic_policy.errors import PodlaneError

LIBRARY: Final = "libbpf.so.1"
_WORDS: Final = 1 << 16
"""Bytes of one message of libbpf: the verifier's log may be one."""
_VERIFIED: Final = "processed "
"""The verifier's last line begins so."""
_UNPRIVILEGED: Final = "!root"
"""In the verifier's words where PERFMON is what is missing."""
_WARNING: Final = 0
"""LIBBPF_WARN"""

_int, _u32, _pointer, _size = ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t


class BpfError(PodlaneError):
    """A call of libbpf failed. ``number`` is the errno."""

    def __init__(self, what: str, number: int, words: str = "") -> None:
        self.number = number
        # EACCES is also what the verifier says to a program that it does not understand.
        understood = number != errno.EACCES or _VERIFIED not in words or _UNPRIVILEGED in words
        remedy = remedy_for(number) if understood else ""
        super().__init__(f"{what}: {os.strerror(number)}{remedy}" + (f"\n{words}" if words else ""))


class LibbpfMissingError(BpfError):
    """libbpf is not installed."""

    def __init__(self) -> None:
        super().__init__(f"{LIBRARY} is not here (apt-get install libbpf1)", errno.ENOENT)


def remedy_for(number: int) -> str:
    """What to do about an errno, as a sentence; empty if that is not known."""
    if number in (errno.EPERM, errno.EACCES):
        return ". It takes the capabilities NET_ADMIN, BPF and PERFMON, or root"
    return ""


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts (bpf/bpf.h)."""

    _fields_ = (
        ("size", _size), ("data_in", _pointer), ("data_out", _pointer), ("data_size_in", _u32),
        ("data_size_out", _u32), ("ctx_in", _pointer), ("ctx_out", _pointer), ("ctx_size_in", _u32),
        ("ctx_size_out", _u32), ("retval", _u32), ("repeat", _int), ("duration", _u32), ("flags", _u32),
        ("cpu", _u32), ("batch_size", _u32),
    )  # fmt: skip


class _ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info (linux/bpf.h)."""

    _fields_ = (
        ("type", _u32), ("id", _u32), ("tag", ctypes.c_uint8 * 8), ("jited_len", _u32), ("xlated_len", _u32),
        ("jited", ctypes.c_uint64), ("xlated", ctypes.c_uint64), ("load_time", ctypes.c_uint64), ("uid", _u32),
        ("map_count", _u32), ("map_ids", ctypes.c_uint64), ("name", ctypes.c_char * 16),
    )  # fmt: skip


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info (linux/bpf.h)."""

    _fields_ = (
        ("type", _u32), ("id", _u32), ("key_size", _u32), ("value_size", _u32), ("max_entries", _u32),
        ("flags", _u32), ("name", ctypes.c_char * 16),
    )  # fmt: skip


_PRINT: Final = ctypes.CFUNCTYPE(_int, _int, ctypes.c_char_p, _pointer)


class _Said(threading.local):
    """What libbpf said in a call, which this thread made."""

    def __init__(self) -> None:
        self.words: list[str] = []


_said: Final = _Said()


def _hear(level: int, form: bytes, arguments: int) -> int:
    """Keep warnings, among them the verifier's words. ``arguments`` is a va_list, as vsnprintf(3) takes it."""
    if level == _WARNING:
        text = ctypes.create_string_buffer(_WORDS)
        ctypes.CDLL(None).vsnprintf(text, _size(_WORDS), form, _pointer(arguments))
        _said.words.append(text.value.decode(errors="replace"))
    return 0


_hearing: Final = _PRINT(_hear)
"""libbpf keeps a pointer to it."""


@cache
def library() -> ctypes.CDLL:
    """libbpf. Raises :class:`LibbpfMissingError`."""
    try:
        loaded = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        raise LibbpfMissingError from None
    for name in (
        "bpf_object__open_file", "bpf_object__find_map_by_name", "bpf_object__find_program_by_name", "ring_buffer__new",
    ):  # fmt: skip
        getattr(loaded, name).restype = _pointer
    loaded.libbpf_set_print(_hearing)
    return loaded


def call(what: str, name: str, *arguments: Any) -> int:
    """Call a function of libbpf that returns a negative errno. ``what`` says in an error what was attempted."""
    _said.words.clear()
    result = int(getattr(library(), name)(*arguments))
    if result < 0:
        raise BpfError(what, -result, "".join(_said.words).strip()[-2000:])
    return result


class Map:
    """A map, by its file descriptor, which belongs to the object that it is of."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __setitem__(self, key: bytes, value: bytes) -> None:
        call("a map could not be written", "bpf_map_update_elem", self.fd, key, value, ctypes.c_uint64(0))

    def fill(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Write many entries. Raises :class:`BpfError`."""
        for key, value in entries:
            self[key] = value

    def drain(self, key_size: int, value_size: int, most: int) -> list[tuple[bytes, bytes]]:
        """Take out entries of a hash map, ``most`` at most: all, if it has no more. Linux 5.6.

        Raises :class:`BpfError`."""
        keys = ctypes.create_string_buffer(key_size * most)
        values = ctypes.create_string_buffer(value_size * most)
        where, number = _u32(0), _u32(most)
        try:
            call(
                "a map could not be read",
                "bpf_map_lookup_and_delete_batch",
                *(self.fd, None, ctypes.byref(where), keys, values, ctypes.byref(number), None),
            )
        except BpfError as error:
            if error.number != errno.ENOENT:  # the end was reached
                raise
        found = keys.raw, values.raw
        return [
            (found[0][at * key_size : (at + 1) * key_size], found[1][at * value_size : (at + 1) * value_size])
            for at in range(number.value)
        ]

    def read(self, key: bytes, size: int) -> bytes | None:
        """The value of a key, of ``size`` bytes, or None. Raises :class:`BpfError`."""
        value = ctypes.create_string_buffer(size)
        try:
            call("a map could not be read", "bpf_map_lookup_elem", self.fd, key, value)
        except BpfError as error:
            if error.number == errno.ENOENT:
                return None
            raise
        return value.raw


class NumberArray:
    """An array of 64-bit numbers (BPF_F_MMAPABLE) in this process's memory: to read it takes no call."""

    def __init__(self, fd: int, entries: int) -> None:
        """``fd``: the map, which stays the caller's. Raises :class:`BpfError`."""
        self._entries = entries
        try:
            self._memory = mmap.mmap(fd, entries * 8, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise BpfError("an array could not be read", error.errno or errno.EIO) from None

    def raw(self) -> bytes:
        """All of it, to be compared."""
        return self._memory[:]

    def read(self) -> list[int]:
        """The numbers."""
        return list(struct.unpack(f"={self._entries}Q", self.raw()))

    def close(self) -> None:
        """Let go of it; the map stays."""
        self._memory.close()


_SAMPLE: Final = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _size)


class RingBuffer:
    """Reads what programs write into a ring buffer. Not thread-safe."""

    def __init__(self, fd: int) -> None:
        """``fd``: the map, which stays the caller's. Raises :class:`BpfError`."""
        self._read: list[bytes] = []
        self._most = 0
        self._callback = _SAMPLE(self._take)
        _said.words.clear()
        self._ring = library().ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise BpfError("the ring buffer could not be opened", ctypes.get_errno(), "".join(_said.words).strip())

    def _take(self, _context: int, data: int, size: int) -> int:
        self._read.append(ctypes.string_at(data, size))
        return -errno.ECANCELED if len(self._read) >= self._most else 0

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to read. Raises :class:`BpfError`."""
        return call("the ring buffer's descriptor", "ring_buffer__epoll_fd", _pointer(self._ring))

    def read(self, most: int) -> list[bytes]:
        """What is there, without waiting; at most so many records. Raises :class:`BpfError`."""
        self._read, self._most = [], most
        try:
            call("the ring buffer could not be read", "ring_buffer__consume", _pointer(self._ring))
        except BpfError as error:
            if error.number != errno.ECANCELED:
                raise
        return self._read

    def close(self) -> None:
        """Let go of it; the map stays."""
        ring, self._ring = self._ring, None
        if ring:
            library().ring_buffer__free(_pointer(ring))


class BpfObject:
    """An object file: opened, given its sizes and maps, and loaded. Its programs live on where they are attached."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`BpfError`."""
        _said.words.clear()
        self._object = library().bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise BpfError(f"{path} could not be opened", ctypes.get_errno(), "".join(_said.words).strip())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of programs and maps. What is attached stays."""
        handle, self._object = self._object, None
        if handle:
            library().bpf_object__close(_pointer(handle))

    def load(
        self, sizes: Mapping[str, int], reuse: Mapping[str, int] | None = None, without: Iterable[str] = ()
    ) -> None:
        """Make the maps and load the programs. ``sizes``: entries by name of the map.

        ``reuse``: descriptors of maps that exist, by name; they are not closed, and have to be of the same shape.
        ``without``: programs that are not needed. Raises :class:`BpfError`.
        """
        for name in without:
            call(f"the program {name}", "bpf_program__set_autoload", self._program(name), ctypes.c_bool(False))
        for name, entries in sizes.items():
            call(f"the size of the map {name}", "bpf_map__set_max_entries", self._map(name), _u32(entries))
        for name, fd in (reuse or {}).items():
            self._require_same_shape(name, fd)
            call(f"the map {name} could not be taken over", "bpf_map__reuse_fd", self._map(name), fd)
        call("the kernel did not take the programs", "bpf_object__load", _pointer(self._object))

    def _require_same_shape(self, name: str, fd: int) -> None:
        """libbpf would take over any map, and what the programs would find in its values nobody knows."""
        there, wanted = _info(fd, _MapInfo()), self._map(name)
        for what in ("type", "key_size", "value_size", "max_entries"):
            if getattr(there, what) != getattr(library(), f"bpf_map__{what}")(wanted):
                raise BpfError(f"the map {name} is of another build of Podlane ({what})", errno.EINVAL)

    def map(self, name: str) -> Map:
        """A map by name."""
        return Map(call(f"the map {name}", "bpf_map__fd", self._map(name)))

    def program(self, name: str) -> int:
        """The descriptor of a loaded program."""
        return call(f"the program {name}", "bpf_program__fd", self._program(name))

    def _program(self, name: str) -> ctypes.c_void_p:
        found = library().bpf_object__find_program_by_name(_pointer(self._object), name.encode())
        if not found:
            raise BpfError(f"the program {name}", errno.ENOENT)
        return _pointer(found)

    def _map(self, name: str) -> ctypes.c_void_p:
        found = library().bpf_object__find_map_by_name(_pointer(self._object), name.encode())
        if not found:
            raise BpfError(f"the map {name}", errno.ENOENT)
        return _pointer(found)


class TestRun(NamedTuple):
    """What a program returned, struct __sk_buff after it, and the nanoseconds that it took (the mean of the runs)."""

    returned: int
    context: bytes
    nanoseconds: int


def run_on_frame(program: int, frame: bytes, context: bytes, repeat: int = 1) -> TestRun:
    """Run a program on an Ethernet frame (BPF_PROG_TEST_RUN), ``repeat`` times.

    ``context`` is struct __sk_buff before it. Raises :class:`BpfError`.
    """
    after = ctypes.create_string_buffer(len(context))
    options = _TestRunOptions(
        size=ctypes.sizeof(_TestRunOptions),
        data_in=ctypes.cast(ctypes.c_char_p(frame), _pointer),
        data_size_in=len(frame),
        ctx_in=ctypes.cast(ctypes.c_char_p(context), _pointer),
        ctx_size_in=len(context),
        ctx_out=ctypes.cast(after, _pointer),
        ctx_size_out=len(context),
        repeat=repeat,
    )
    call("the program could not be run", "bpf_prog_test_run_opts", program, ctypes.byref(options))
    return TestRun(options.retval, after.raw, options.duration)


def frame_after(program: int, frame: bytes) -> bytes:
    """Run a program on a frame (BPF_PROG_TEST_RUN); the frame as the program has left it. Raises :class:`BpfError`."""
    after = ctypes.create_string_buffer(len(frame))
    options = _TestRunOptions(
        size=ctypes.sizeof(_TestRunOptions),
        data_in=ctypes.cast(ctypes.c_char_p(frame), _pointer),
        data_size_in=len(frame),
        data_out=ctypes.cast(after, _pointer),
        data_size_out=len(frame),
        repeat=1,
    )
    call("the program could not be run", "bpf_prog_test_run_opts", program, ctypes.byref(options))
    return after.raw


def program_by_id(number: int) -> int:
    """A descriptor of the loaded program with this id, for the caller to close. Raises :class:`BpfError`."""
    return call("a program could not be opened", "bpf_prog_get_fd_by_id", _u32(number))


def may_look_up() -> bool:
    """Whether this process may open programs and maps of others by their ids: that takes SYS_ADMIN (bpf(2))."""
    try:
        os.close(program_by_id(0))  # there is none; but the kernel asks for the capability first
    except BpfError as error:
        return error.number != errno.EPERM
    return True


def map_id(fd: int) -> int:
    """The id of a map. Raises :class:`BpfError`."""
    return int(_info(fd, _MapInfo()).id)


def map_entries(fd: int) -> int:
    """How many entries a map may have. Raises :class:`BpfError`."""
    return int(_info(fd, _MapInfo()).max_entries)


def program_id(fd: int) -> int:
    """The id of a program. Raises :class:`BpfError`."""
    return int(_info(fd, _ProgramInfo()).id)


def program_name(fd: int) -> str:
    """The name of a program, at most 15 characters. Raises :class:`BpfError`."""
    return _info(fd, _ProgramInfo()).name.decode(errors="replace")  # type: ignore[no-any-return]


def map_of_program(fd: int, name: str) -> int | None:
    """A descriptor of a map that a program uses, by name, for the caller to close. Raises :class:`BpfError`."""
    return maps_of_program(fd, (name,)).get(name)


def maps_of_program(fd: int, names: Collection[str]) -> dict[str, int]:
    """Descriptors of maps that a program uses, of those with these names, for the caller to close.

    Raises :class:`BpfError`.
    """
    count = _info(fd, _ProgramInfo()).map_count
    ids = (_u32 * count)()
    _info(fd, _ProgramInfo(map_count=count, map_ids=ctypes.addressof(ids)))
    wanted = {name.encode(): name for name in names}
    found: dict[str, int] = {}
    for number in ids:
        if len(found) == len(wanted):
            break
        each = call("a map could not be opened", "bpf_map_get_fd_by_id", _u32(number))
        name = wanted.get(_info(each, _MapInfo()).name)
        if name is None or name in found:
            os.close(each)
        else:
            found[name] = each
    return found


def _info(fd: int, info: Any) -> Any:
    size = _u32(ctypes.sizeof(info))
    call("what was loaded could not be read", "bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(size))
    return info
