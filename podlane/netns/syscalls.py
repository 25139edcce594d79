"""System calls that Python 3.11 does not wrap: unshare, mount and signalfd, through ctypes.

``os.unshare`` exists since Python 3.12; the others do not. Each function raises OSError with the
kernel's errno and keeps no state, so it is safe between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLONE_NEWNS: Final = 0x00020000
"""A mount namespace (linux/sched.h)."""
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000

_SFD_CLOEXEC: Final = 0o2000000
_SIGSET_BYTES: Final = 128
"""Size of glibc's sigset_t; the kernel uses the first 64 bits."""
_SIGINFO_BYTES: Final = 128
_SI_KERNEL: Final = 0x80
"""``si_code`` of a signal that the kernel itself sends, such as the terminal's for Ctrl-C (sigaction(2))."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def private_mounts() -> None:
    """Make this process's mounts invisible to other processes; mounts made outside still propagate here."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", MS_REC | MS_SLAVE)


def bind(source: Path, target: Path) -> None:
    """Bind-mount the file ``source`` over ``target``; a symbolic link ``target`` is followed."""
    _mount(str(source), str(target), MS_BIND)


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None), f"mount {target}")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A signal that has arrived. ``from_terminal``: the kernel sent it, and to the whole foreground group."""

    number: signal.Signals
    from_terminal: bool


def signal_descriptor(signals: Iterable[signal.Signals]) -> int:
    """A file descriptor that is readable when one of ``signals`` is pending (signalfd(2)); block them first."""
    bits = sum(1 << (number - 1) for number in signals)
    mask = ctypes.create_string_buffer(struct.pack("=Q", bits), _SIGSET_BYTES)
    return _check(_libc.signalfd(-1, mask, _SFD_CLOEXEC), "signalfd")


def read_signal(fd: int) -> Arrived:
    """Take the next pending signal from a :func:`signal_descriptor`; waits for one."""
    number, _errno, code = struct.unpack_from("=IiI", os.read(fd, _SIGINFO_BYTES))
    return Arrived(signal.Signals(number), code == _SI_KERNEL)
