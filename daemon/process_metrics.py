"""The process metrics that Prometheus recommends, from proc_pid_stat(5).

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemon.prometheus_text import MetricFamily, counter, gauge

_UTIME, _STIME, _STARTTIME, _VSIZE, _RSS = 11, 12, 19, 20, 21
"""Fields of /proc/self/stat after the program's name, which may contain any character."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def process_families() -> Iterator[MetricFamily]:
    """CPU time, memory, start time and descriptors of this process."""
    numbers = _numbers()
    ticks = [int(numbers[place]) / _TICKS for place in (_UTIME, _STIME, _STARTTIME)]
    cpu = counter("process_cpu_seconds", "Total user and system CPU time spent in seconds.")
    cpu.add(ticks[0] + ticks[1])
    yield cpu
    for name, text, number in (
        ("virtual_memory_bytes", "Virtual memory size in bytes.", int(numbers[_VSIZE])),
        ("resident_memory_bytes", "Resident memory size in bytes.", int(numbers[_RSS]) * _PAGE),
        ("start_time_seconds", "Start time of the process since unix epoch in seconds.", _boot_time() + ticks[2]),
        ("open_fds", "Number of open file descriptors.", len(os.listdir("/proc/self/fd"))),
        ("max_fds", "Maximum number of open file descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    ):
        family = gauge(f"process_{name}", text)
        family.add(number)
        yield family


def cpu_and_memory() -> tuple[float, int]:
    """Seconds of processor that this process has used, and bytes of memory that it has."""
    numbers = _numbers()
    return (int(numbers[_UTIME]) + int(numbers[_STIME])) / _TICKS, int(numbers[_RSS]) * _PAGE


def _numbers() -> list[str]:
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def _boot_time() -> float:
    """In seconds since 1970."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
