"""Reads, traces and changes another process, as containers of a Pod with shareProcessNamespace can try.

    python same_pids.py PID

Needs the sidecar's user id (0 in a Pod). Prints each way that worked, one a line; nothing if none did.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final

PTRACE_SEIZE: Final = 0x4206
"""linux/ptrace.h."""
PIDFD_GETFD: Final = {"x86_64": 438, "aarch64": 438}
"""The number of pidfd_getfd(2), which has no function in older C libraries."""


def trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_SEIZE, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


def write(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))


def environment(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/environ", os.O_RDONLY))


def files(pid: int) -> None:
    """By which a socket in a directory of another container could be reached."""
    os.listdir(f"/proc/{pid}/root/run")


def sockets(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(PIDFD_GETFD[os.uname().machine], os.pidfd_open(pid), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")


def namespaces(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY))


WAYS: Final[tuple[Callable[[int], None], ...]] = (write, environment, files, sockets, namespaces, trace)


def main() -> None:
    pid = int(sys.argv[1])
    for way in WAYS:
        try:
            way(pid)
        except PermissionError:
            continue
        print(way.__name__, flush=True)


main()
