"""The group of the proxy's sockets, by which rules tell them from those of other programs that set our bits.

A program in the Pod with CAP_NET_RAW may set the same mark, and one with CAP_SETGID may take any group that it knows;
containers have both by default. So the group is drawn at random at each start, and is that of sockets alone: the file
system gid of the thread that makes or accepts them (xt_owner.c compares ``file->f_cred->fsgid``). Nobody is told it:
neither netlink nor /proc/net show a socket's gid, SO_PEERCRED shows another, and reading rules takes CAP_NET_ADMIN.
Files that are made under it would show it (:func:`ordinary_group`), and so does /proc/PID/status, to processes that
share the sidecar's PID namespace.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from daemon.log import Logger
from datapath.mesh.types import MeshProxy

_SYSTEM_IDS: Final = 1 << 16
"""Ids below are those of users and packages."""
_NO_GROUP: Final = 0xFFFFFFFF
"""-1 as gid_t, which is no gid."""
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2

log = Logger()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def own_group(mesh: MeshProxy | None = None) -> int:
    """Draw a group, make it that of the sockets which this thread and its children make from now on, and return it.

    A mesh that lets our packets pass by their group has that group. Without CAP_SETGID it is the process's own gid,
    which others may have.
    """
    if mesh is not None and mesh.group is not None:
        return mesh.group
    drawn = _draw(_gid_map())
    _set_group(drawn)
    # An invalid gid changes nothing and returns the current one.
    if _libc().setfsgid(ctypes.c_uint(_NO_GROUP)) & _NO_GROUP == drawn:
        return drawn
    log.info(
        "the proxy's sockets are told by a group that other programs may have",
        gid=os.getegid(),
        remedy="add SETGID to the container's capabilities",
    )
    return os.getegid()


@contextmanager
def ordinary_group() -> Iterator[None]:
    """Files that this thread makes within the block belong to the process's ordinary group."""
    before = _set_group(os.getegid())
    try:
        yield
    finally:
        _set_group(before)


def _set_group(gid: int) -> int:
    """setfsgid(2): the group before. The kernel then forgets which signal this process asked for at its parent's end
    (prctl(2), PR_SET_PDEATHSIG), so it is asked for again."""
    libc, asked, parent = _libc(), ctypes.c_int(), os.getppid()
    libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(asked), 0, 0, 0)
    before: int = libc.setfsgid(ctypes.c_uint(gid)) & _NO_GROUP
    if asked.value:
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(asked.value), 0, 0, 0)
        if os.getppid() != parent:  # it ended meanwhile
            os.kill(os.getpid(), asked.value)
    return before


def _gid_map() -> str:
    """/proc/self/gid_map (user_namespaces(7)); kernels without user namespaces have none, and all ids."""
    with suppress(FileNotFoundError):
        return Path("/proc/self/gid_map").read_text()
    return f"0 0 {0xFFFFFFFF}"


def _draw(gid_map: str) -> int:
    """A random gid of the largest range of this user namespace, by the text of /proc/self/gid_map."""
    ranges = [tuple(map(int, line.split())) for line in gid_map.splitlines()]
    first, _, count = max(ranges, key=lambda each: each[2])
    skipped = _SYSTEM_IDS if first == 0 and count > 2 * _SYSTEM_IDS else 0
    # The upper half of all numbers is negative to some programs.
    return first + skipped + secrets.randbelow(min(count, 1 << 31) - skipped)
