"""Where programs are attached: by tcx where the kernel has it (Linux 6.6), else by a filter of the clsact qdisc.

Both live on without this process, and need neither pins nor files: a program is found again by its name. With tcx the
programs of others keep their order; a clsact qdisc that others have made is used and left alone.

All calls are about the network namespace of the calling thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Protocol

from datapath.ebpf.libbpf import BpfError, call, program_by_id, program_name

_u32 = ctypes.c_uint32


class Point(IntEnum):
    """Which way packets go at a hook: the values are those of tcx, BPF_TCX_INGRESS and _EGRESS (linux/bpf.h)."""

    INGRESS = 46
    EGRESS = 47


_CLSACT: Final = {Point.INGRESS: 1, Point.EGRESS: 2}
"""BPF_TC_INGRESS and _EGRESS (bpf/libbpf.h)"""
_REPLACE: Final = 4
"""BPF_F_REPLACE"""
_MOST: Final = 64
"""Programs at one hook."""
_TC_REPLACE: Final = 1
"""BPF_TC_F_REPLACE"""
_PRIORITY: Final = 0xC0DE
_HANDLE: Final = 1
"""Preference and handle of our filter, which nobody else is likely to choose."""
_KEPT_NAME: Final = 15
"""Characters of a program's name that the kernel keeps."""


class _Hook(ctypes.Structure):
    """struct bpf_tc_hook"""

    _fields_ = (("size", ctypes.c_size_t), ("ifindex", ctypes.c_int), ("point", ctypes.c_int), ("parent", _u32))


class _Filter(ctypes.Structure):
    """struct bpf_tc_opts"""

    _fields_ = (
        ("size", ctypes.c_size_t), ("program", ctypes.c_int), ("flags", _u32), ("id", _u32), ("handle", _u32),
        ("priority", _u32),
    )  # fmt: skip


class _AttachOptions(ctypes.Structure):
    """struct bpf_prog_attach_opts as libbpf 1.0 has it; later ones are longer."""

    _fields_ = (("size", ctypes.c_size_t), ("flags", _u32), ("replace", ctypes.c_int))


class ProgramHook(Protocol):
    """A hook of one interface."""

    def attach(self, program: int) -> None:
        """Attach a program, in the place of ours if there is one already. Raises :class:`BpfError`."""

    def ours(self) -> int | None:
        """A descriptor of our program there, for the caller to close. Raises :class:`BpfError`."""

    def detach(self) -> None:
        """Take our program away, if it is there. Raises :class:`BpfError`."""


class TcxHook:
    """The hook of Linux 6.6 and later."""

    def __init__(self, ifindex: int, name: str, point: Point = Point.EGRESS) -> None:
        """``name`` is that of the program's function."""
        self._ifindex = ifindex
        self._point = int(point)
        self._name = name[:_KEPT_NAME]

    def attach(self, program: int) -> None:
        before = self.ours()
        options = _AttachOptions(ctypes.sizeof(_AttachOptions))
        try:
            if before is not None:
                options.flags, options.replace = _REPLACE, before
            what = "the program could not be attached (tcx)"
            call(what, "bpf_prog_attach_opts", program, self._ifindex, self._point, ctypes.byref(options))
        finally:
            if before is not None:
                os.close(before)

    def ours(self) -> int | None:
        ids = (_u32 * _MOST)()
        count = _u32(_MOST)
        what = "the programs of the interface could not be listed"
        call(what, "bpf_prog_query", self._ifindex, self._point, _u32(0), None, ids, ctypes.byref(count))
        for number in ids[: count.value]:
            found = program_by_id(number)
            if program_name(found) == self._name:
                return found
            os.close(found)
        return None

    def detach(self) -> None:
        program = self.ours()
        if program is None:
            return
        try:
            what = "the program could not be taken away (tcx)"
            call(what, "bpf_prog_detach2", program, self._ifindex, self._point)
        finally:
            os.close(program)


class ClsactHook:
    """A filter of the clsact qdisc, in direct-action mode."""

    def __init__(self, ifindex: int, name: str, point: Point = Point.EGRESS) -> None:
        """``name`` is that of the program's function."""
        self._hook = _Hook(ctypes.sizeof(_Hook), ifindex, _CLSACT[point], 0)
        self._name = name[:_KEPT_NAME]

    def attach(self, program: int) -> None:
        _tolerating(errno.EEXIST, lambda: call("clsact could not be made", "bpf_tc_hook_create", self._pointer))
        options = self._options(program=program, flags=_TC_REPLACE)
        what = "the program could not be attached (clsact)"
        call(what, "bpf_tc_attach", self._pointer, ctypes.byref(options))

    def ours(self) -> int | None:
        options = self._options()
        what = "the filters of the interface could not be listed"
        # Without a clsact qdisc the kernel says EINVAL.
        if not _tolerating(errno.ENOENT, lambda: call(what, "bpf_tc_query", self._pointer, ctypes.byref(options)), 22):
            return None
        found = program_by_id(options.id)
        if program_name(found) == self._name:
            return found
        os.close(found)
        return None

    def detach(self) -> None:
        program = self.ours()
        if program is None:
            return
        os.close(program)
        options = self._options()
        call("the filter could not be taken away", "bpf_tc_detach", self._pointer, ctypes.byref(options))

    @property
    def _pointer(self) -> object:
        return ctypes.byref(self._hook)

    @staticmethod
    def _options(program: int = 0, flags: int = 0) -> _Filter:
        return _Filter(ctypes.sizeof(_Filter), program, flags, 0, _HANDLE, _PRIORITY)


def egress_hook(ifindex: int, name: str) -> ProgramHook:
    """The egress hook of an interface; see :func:`hook_at`."""
    return hook_at(ifindex, name, Point.EGRESS)


def hook_at(ifindex: int, name: str, point: Point) -> ProgramHook:
    """The better one of the hooks that this kernel has."""
    tcx = TcxHook(ifindex, name, point)
    try:
        found = tcx.ours()
    except BpfError as error:
        if error.number != errno.EINVAL:
            raise
        return ClsactHook(ifindex, name, point)
    if found is not None:
        os.close(found)
    return tcx


def _tolerating(number: int, attempt: Callable[[], object], other: int = 0) -> bool:
    """Whether the attempt succeeded; these errors are none."""
    try:
        attempt()
    except BpfError as error:
        if error.number not in (number, other):
            raise
        return False
    return True
