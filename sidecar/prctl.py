"""The lifetime of a process: prctl(2) through ctypes, which the standard library does not wrap.

Raises OSError with the kernel's errno. Keeps no state, so it is safe between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send signal ``number`` to this process when its parent ends; at once if it has ended already.

    The parent is the *thread* that forked this process. A change of user id clears the setting (prctl(2),
    PR_SET_PDEATHSIG), so call this after it.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
