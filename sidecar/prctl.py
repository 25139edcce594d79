"""Whose child a process is, and for how long: prctl(2) by ctypes, since Python has no function for it.

Raises OSError with the kernel's errno and needs no state, so it is safe between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send ``number`` to this process when its parent ends; at once if it has ended already.

    More exactly: when the *thread* ends that forked it. A change of user id clears the setting (prctl(2),
    PR_SET_PDEATHSIG), so call this after it.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Have this process, and what it executes in its place, be the parent of all orphans among its descendants.

    Process 1 is that anyway (prctl(2), PR_SET_CHILD_SUBREAPER).
    """
    if os.getpid() != 1 and _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "prctl")
