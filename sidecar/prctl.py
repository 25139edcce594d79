"""How long a process lives: prctl(2) by ctypes, since Python has no function for it.

Raises OSError with the kernel's errno and needs no state, so it is safe between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1

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
