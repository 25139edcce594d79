"""Where the network namespaces of a node's Pods are, by the cgroups of their processes.

The kubelet makes a cgroup for each Pod whose name has the Pod's UID: ``kubepods/burstable/podUID`` with the driver
cgroupfs, ``kubepods-burstable-podUID.slice`` with systemd, whose names have _ for - (cgroup_manager_linux.go and
pod_container_manager_linux.go of k8s.io/kubernetes, pkg/kubelet/cm). So this works with every container runtime, and
asks none. It takes the node's process IDs (hostPID: true).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datapath.network_namespace import Identity, identity_at

PROC: Final = Path("/proc")
NAMES: Final = Path("/run/netns")
"""Where container runtimes give the namespaces of Pods a name, which stays for as long as the Pod's network does."""
_POD: Final = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})")
"""UIDs are UUIDs; those of static Pods are a hash without dashes."""


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """A path to the network namespace of a Pod, and its identity."""

    path: Path
    identity: Identity

    @property
    def is_there(self) -> bool:
        """Whether the path leads to it still: a process behind a path may have ended."""
        return identity_at(self.path) == self.identity


def network_at(path: Path, proc: Path = PROC) -> PodNetwork | None:
    """The network namespace that a container runtime names; None: it is not there, or it is the agent's or the
    node's."""
    identity = identity_at(path)
    return None if identity is None or identity in _not_of_pods(proc) else PodNetwork(path, identity)


def find_networks(uids: Collection[str], proc: Path = PROC, names: Path = NAMES) -> dict[str, PodNetwork]:
    """The network namespaces of the Pods with these UIDs, as far as they have processes, but never the agent's own, nor
    the node's.

    Of a Pod's processes the oldest one counts, which is that of its sandbox. A name below ``names`` is preferred to
    /proc/PID/ns/net. Blocks: it reads a file of each process.
    """
    hosts = _not_of_pods(proc)
    oldest: dict[str, tuple[int, PodNetwork]] = {}
    for folder in proc.glob("[0-9]*"):
        uid = _uid_of(folder)
        if uid is None or uid not in uids:
            continue
        path = folder / "ns" / "net"
        identity, began = identity_at(path), _began(folder)
        if identity is None or identity in hosts or began is None:
            continue
        if uid not in oldest or began < oldest[uid][0]:
            oldest[uid] = began, PodNetwork(path, identity)
    named = {identity: path for path in _files(names) if (identity := identity_at(path)) is not None}
    return {
        uid: PodNetwork(named.get(found.identity, found.path), found.identity) for uid, (_, found) in oldest.items()
    }


def _not_of_pods(proc: Path) -> set[Identity | None]:
    return {identity_at(proc / "self" / "ns" / "net"), identity_at(proc / "1" / "ns" / "net")}


def _uid_of(process: Path) -> str | None:
    """The UID of the Pod that a process belongs to, with dashes."""
    try:
        found = _POD.findall((process / "cgroup").read_text())
    except OSError:
        return None  # it has ended
    return found[-1].replace("_", "-") if found else None


def _began(process: Path) -> int | None:
    """When a process was started, in clock ticks since boot (proc_pid_stat(5))."""
    try:
        text = (process / "stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return
