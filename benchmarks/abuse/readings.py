"""What the sidecar's processes take at a moment, and what the kernel takes for everybody's connections; from /proc."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import cpu_seconds, resident_mib

_PAGE_KIB: Final = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """``kernel_kib``: memory of the whole machine's sockets and kernel objects, so of both ends of each connection.

    ``cpu`` in seconds, since the processes began; ``at`` is when this was read.
    """

    at: float
    cpu: float
    resident_kib: float
    descriptors: int
    kernel_kib: float

    def share(self, earlier: Reading) -> float:
        """CPUs that were used since an earlier reading."""
        return (self.cpu - earlier.cpu) / (self.at - earlier.at)


def read(pids: Iterable[int]) -> Reading:
    """All of it, now."""
    pids = list(pids)
    return Reading(
        time.monotonic(),
        cpu_seconds(pids),
        resident_mib(pids) * 1024,
        sum(map(_descriptors, pids)),
        kernel_kib(Path("/proc/meminfo").read_text(), Path("/proc/net/sockstat").read_text()),
    )


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0  # it has ended


def kernel_kib(meminfo: str, sockstat: str) -> float:
    """Slabs that cannot be reclaimed, and what TCP holds of pages (proc(5)); the latter is not by namespace."""
    slab = re.search(r"^SUnreclaim:\s+(\d+) kB", meminfo, re.MULTILINE)
    pages = re.search(r"^TCP:.* mem (\d+)", sockstat, re.MULTILINE)
    return float(slab[1] if slab else 0) + _PAGE_KIB * float(pages[1] if pages else 0)
