"""What processes cost: CPU time and memory of whole process trees, and of the machine, from /proc.

CPU time is the scheduler's own count in nanoseconds (``/proc/PID/task/TID/schedstat``, first field: time on a CPU),
which is exact where ``/proc/PID/stat`` counts ticks.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError, MeasurementError

_PROC: Final = Path("/proc")
_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE_KIB: Final = 1024
_PEAK_ANEW: Final = "5"
"""Written to /proc/PID/clear_refs: VmHWM is what is resident now (proc_pid_clear_refs(5))."""
_BUSY_FIELDS: Final = (0, 1, 2, 5, 6)
"""user, nice, system, irq, softirq of /proc/stat (proc(5)); steal and guest are others' work."""
_CPU_CLOCK: Final = 2
"""CPUCLOCK_SCHED: with the complement of a pid it is the clock of that process (clock_getcpuclockid(3))."""
_LOOK_AGAIN: Final = 10
"""Milliseconds between two looks for what cannot notify; the process's own end wakes at once."""


def process_tree(root: int) -> list[int]:
    """A process and all its descendants, as far as they still exist."""
    found = [root]
    for pid in found:
        for task in _tasks(pid):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that all threads of these processes have had, in seconds."""
    total = 0
    for pid in pids:
        for task in _tasks(pid):
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


def process_seconds(pid: int) -> float:
    """CPU time that one process has had, in seconds, with that of its threads which have ended.

    :func:`cpu_seconds` loses theirs. Raises OSError when the process has ended.
    """
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def resident_mib(pids: Iterable[int]) -> float:
    """Resident memory of these processes in all, in MiB: what they share counts once (Pss of smaps_rollup, proc(5))."""
    total = 0
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / _PAGE_KIB


class Growth:
    """Resident memory that processes have gained at their peaks, since this was made.

    Each process is compared with itself (VmHWM of proc(5), begun anew), so that what they share, and had before, counts
    not at all.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._before: dict[int, float] = {}
        for pid in pids:
            with suppress(OSError):  # it has ended
                (_PROC / str(pid) / "clear_refs").write_text(_PEAK_ANEW)
                self._before[pid] = _peak_mib(pid)

    def mib(self) -> float:
        """So much, in MiB. Raises :class:`MeasurementError` when one of the processes has ended: its peak is lost."""
        return sum(_peak_mib(pid) - before for pid, before in self._before.items())


def _peak_mib(pid: int) -> float:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", (_PROC / str(pid) / "status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise MeasurementError(f"process {pid} has ended, and nobody knows what its peak was")
    return int(found[1]) / _PAGE_KIB


def machine_busy_seconds() -> float:
    """CPU time that all CPUs together have worked since boot, in seconds (resolution: a tick, 10 ms)."""
    fields = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[i] for i in _BUSY_FIELDS) / _TICK


def pin(pids: Iterable[int], cpu: int) -> None:
    """Move every thread of these processes to one CPU."""
    for pid in pids:
        for task in _tasks(pid):
            try:
                os.sched_setaffinity(int(task.name), {cpu})
            except ProcessLookupError:
                continue


@dataclass(frozen=True, slots=True)
class Cost:
    """What a block of work cost: CPU seconds of the processes and of the whole machine, and seconds of time."""

    cpu: float
    busy: float
    wall: float


class Meter:
    """Counts from its making until :meth:`stop`."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._cpu, self._busy, self._began = cpu_seconds(pids()), machine_busy_seconds(), time.monotonic()

    def stop(self) -> Cost:
        """The cost so far."""
        wall = time.monotonic() - self._began
        return Cost(cpu_seconds(self._pids()) - self._cpu, machine_busy_seconds() - self._busy, wall)


def wait_until(what: str, pid: int, ask: Callable[[], bool], *, patience: float = 20.0) -> None:
    """Wait until ``ask`` says yes, but no longer than the process lives.

    Raises :class:`BenchmarkError` when the process ends, or after ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        while not ask():
            if ended.poll(_LOOK_AGAIN):
                raise BenchmarkError(f"it ended before there was {what}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"after {patience:g} s there is still not {what}")
    finally:
        os.close(descriptor)
