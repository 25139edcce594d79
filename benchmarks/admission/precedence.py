"""Precedence over other programs, for figures of a machine that is shared with other work.

Real-time scheduling (SCHED_RR, sched(7)): a thread that wakes runs at once, unless another of these has the CPU. So it
is seen what a program does with a CPU of its own. Nothing that runs as fast as it can should have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError

_LOWEST: Final = 1
"""Above all that is not real-time, below the kernel's own threads (sched(7))."""


@contextmanager
def precedence(*pids: int) -> Iterator[None]:
    """Give it to all threads of these processes for the block. Raises :class:`BenchmarkError` without the right to."""
    try:
        _schedule(pids, os.SCHED_RR, _LOWEST)
    except PermissionError:
        raise BenchmarkError("--precedence takes root, or CAP_SYS_NICE. Leave it out, or use sudo.") from None
    try:
        yield
    finally:
        _schedule(pids, os.SCHED_OTHER, 0)


def _schedule(pids: tuple[int, ...], policy: int, priority: int) -> None:
    for pid in pids:
        with suppress(FileNotFoundError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))
