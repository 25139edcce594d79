"""A network namespace to try things in: empty, private to one thread, gone when the thread ends.

unshare(2) with CLONE_NEWNET acts on the calling thread alone, and what that thread starts inherits its namespace. So a
thread of its own is all it takes: no fork of a threaded process, no helper program, nothing to clean up.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

_T = TypeVar("_T")
_CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h. ``os.unshare`` came with Python 3.12."""

_libc = ctypes.CDLL(None, use_errno=True)


def in_scratch_namespace(work: Callable[[], _T]) -> _T:
    """Run ``work`` in a fresh network namespace and give its result, or raise what it raised.

    Raises OSError (EPERM) when this process may not make namespaces; that takes CAP_SYS_ADMIN, which a container that
    has only NET_ADMIN lacks.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "unshare")
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread below
            errors.append(error)

    thread = threading.Thread(target=run, name="scratch-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
