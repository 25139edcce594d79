"""Where programs are attached: by tcx where the kernel has it (Linux 6.6), else by a filter of the clsact qdisc.

Both live on without this process, and need neither pins nor files: a program is found again by its name. With tcx the
programs of others keep their order; a clsact qdisc that others have made is used and left alone.

The kernel tells the ids of programs at tcx, but not their names: to know ours one has to open each of them
(BPF_PROG_GET_FD_BY_ID), which takes SYS_ADMIN. Who has not that uses clsact, whose filters have names.

All calls are about the network namespace of the calling thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from enum import IntEnum
from typing import Final, Protocol

from datapath.ebpf.clsact import ClsactHook
from datapath.ebpf.libbpf import (
    BpfError,
    Map,
    call,
    map_of_program,
    may_look_up,
    program_by_id,
    program_id,
    program_name,
)
from datapath.ebpf.policy_maps import SETTINGS_BYTES
from datapath.ebpf.program import EGRESS, INGRESS, SETTINGS, TO_POD
from tc_core.qdiscs.hooks import EGRESS_HOOK, INGRESS_HOOK

_u32 = ctypes.c_uint32


class Point(IntEnum):
    """Which way packets go at a hook: the values are those of tcx, BPF_TCX_INGRESS and _EGRESS (linux/bpf.h)."""

    INGRESS = 46
    EGRESS = 47


_PARENTS: Final = {Point.INGRESS: int(INGRESS_HOOK), Point.EGRESS: int(EGRESS_HOOK)}
_REPLACE: Final = 4
"""BPF_F_REPLACE"""
_MOST: Final = 64
"""Programs at one hook."""
_KEPT_NAME: Final = 15
"""Characters of a program's name that the kernel keeps."""
_OURS: Final = frozenset(name[:_KEPT_NAME] for name in (EGRESS, INGRESS, TO_POD))


class _AttachOptions(ctypes.Structure):
    """struct bpf_prog_attach_opts as libbpf 1.0 has it; later ones are longer."""

    _fields_ = (("size", ctypes.c_size_t), ("flags", _u32), ("replace", ctypes.c_int))


def foreign_programs(ifindex: int, ours: frozenset[str] = _OURS) -> list[str]:
    """The names of the programs at tcx of an interface that are not ours; none where the kernel has no tcx.

    Takes SYS_ADMIN. Raises :class:`BpfError`.
    """
    found = []
    for point in Point:
        try:
            ids = _ids(ifindex, point)
        except BpfError as error:
            if error.number == errno.EINVAL:
                return []
            raise
        for number in ids:
            program = program_by_id(number)
            found.append(program_name(program))
            os.close(program)
    return [f"the program {name}" for name in found if name not in ours]


def _ids(ifindex: int, point: int) -> list[int]:
    """Of all programs at tcx."""
    ids = (_u32 * _MOST)()
    count = _u32(_MOST)
    what = "the programs of the interface could not be listed"
    call(what, "bpf_prog_query", ifindex, point, _u32(0), None, ids, ctypes.byref(count))
    return ids[: count.value]


class ProgramHook(Protocol):
    """A hook of one interface."""

    def attach(self, program: int, generation: int = 0) -> None:
        """Attach a program, in the place of ours if there is one already. Raises :class:`BpfError`."""

    def attached(self) -> bool:
        """Whether a program of ours is there. Raises :class:`BpfError`."""

    def program(self) -> int | None:
        """The id of our program there. With tcx it takes SYS_ADMIN. Raises :class:`BpfError`."""

    def holds(self, program: int) -> bool:
        """Whether the program with this id is there: for tcx a single call. Raises :class:`BpfError`."""

    def generation(self) -> int | None:
        """The number of the policy in force there (``struct settings``); None: not ours. Raises :class:`BpfError`."""

    def ours(self) -> int | None:
        """A descriptor of our program there, for the caller to close. Takes SYS_ADMIN. Raises :class:`BpfError`."""

    def detach(self) -> None:
        """Take our program away, if it is there. Raises :class:`BpfError`."""


class TcxHook:
    """The hook of Linux 6.6 and later."""

    def __init__(self, ifindex: int, name: str, point: Point = Point.EGRESS) -> None:
        """``name`` is that of the program's function."""
        self._ifindex = ifindex
        self._point = int(point)
        self._name = name[:_KEPT_NAME]

    def attach(self, program: int, generation: int = 0) -> None:
        del generation  # it is in a map of the program
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

    def attached(self) -> bool:
        return self.program() is not None

    def program(self) -> int | None:
        found = self.ours()
        if found is None:
            return None
        try:
            return program_id(found)
        finally:
            os.close(found)

    def holds(self, program: int) -> bool:
        return program in _ids(self._ifindex, self._point)

    def generation(self) -> int | None:
        settings = map_at(self, SETTINGS)
        if settings is None:
            return None
        try:
            value = Map(settings).read(bytes(4), SETTINGS_BYTES)
        finally:
            os.close(settings)
        return None if value is None else int.from_bytes(value[:4], sys.byteorder)

    def ours(self) -> int | None:
        for number in _ids(self._ifindex, self._point):
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


def hook_at(ifindex: int, name: str, point: Point) -> ProgramHook:
    """That at which a program of ours is; else the better one of those that this kernel and process have."""
    clsact = ClsactHook(ifindex, name, _PARENTS[point])
    if clsact.attached() or not may_look_up():
        return clsact
    tcx = TcxHook(ifindex, name, point)
    try:
        tcx.attached()
    except BpfError as error:
        if error.number != errno.EINVAL:
            raise
        return clsact
    return tcx


def map_at(hook: ProgramHook, name: str) -> int | None:
    """A descriptor of a map of the program that is attached, for the caller to close. Takes SYS_ADMIN.

    Raises :class:`BpfError`.
    """
    program = hook.ours()
    if program is None:
        return None
    try:
        return map_of_program(program, name)
    finally:
        os.close(program)
