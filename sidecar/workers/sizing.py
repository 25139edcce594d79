"""The number of workers, and their shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from traffic_policy.settings import Datapath

MOST_AUTOMATIC: Final = 8
"""With more workers, all wait for HTB's lock: every packet of an interface passes one qdisc."""

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def automatic() -> int:
    """One for each CPU that this process may use, by its affinity and its cgroup, at most :data:`MOST_AUTOMATIC`."""
    return min(len(os.sched_getaffinity(0)), cgroup_cpus(), MOST_AUTOMATIC)


def worker_count(wanted: int | Literal["auto"], max_connections: int, datapath: Datapath) -> int:
    """The number of workers of a sidecar; the automatic choice has no idle workers."""
    if wanted != "auto":
        return wanted
    return 1 if datapath is not Datapath.RELAY else min(automatic(), max_connections)


def cgroup_cpus(own: Path = _OWN_CGROUP, cgroups: Path = _CGROUPS) -> int:
    """The number of CPUs that the limits of a cgroup (version 2) and its ancestors allow, rounded up.

    ``cpu.max`` has a quota and a period in microseconds, or "max" (Documentation/admin-guide/cgroup-v2.rst). A very
    large number without a limit, or if cgroups cannot be read.
    """
    least = 1 << 20
    try:
        [path] = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return least
    folder = cgroups / path.lstrip("/")
    for place in (folder, *folder.parents):
        if place == cgroups.parent:
            break
        try:
            quota, period = (place / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue  # the root has no cpu.max
        if quota != "max":
            least = min(least, max(1, -(-int(quota) // int(period))))
    return least


def shares(total: int, parts: int) -> list[int]:
    """Split ``total`` into ``parts`` that differ by one at most, the larger ones first."""
    each, more = divmod(total, parts)
    return [each + (number < more) for number in range(parts)]
