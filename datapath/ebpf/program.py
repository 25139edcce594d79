"""The object file of the programs, loaded with the maps of a policy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from datapath.ebpf.libbpf import BpfError, BpfObject
from datapath.ebpf.policy_maps import PolicyMaps
from traffic_policy.errors import PodlaneError

OBJECT: Final = Path(__file__).parent / "lane.bpf.o"
"""What the build makes of ``programs/lane.bpf.c``; not there if it had no clang."""
EGRESS: Final = "podlane_egress"
INGRESS: Final = "podlane_ingress"
TO_POD: Final = "podlane_to_pod"
"""What :data:`INGRESS` is inside a Pod, at the node's end of its link; :data:`EGRESS` is the same at both."""
JUDGE: Final = "podlane_judge"
CARRIED: Final = "podlane_carried"
"""What no hook has: it answers what sockets have carried."""
FLOWS: Final = "flows"
"""The map with the verdicts of connections, by socket."""
BEGINNINGS: Final = "beginnings"
"""The ring buffer with what the programs could not read."""
VERDICTS: Final = "verdicts"
"""The map with the answers to that."""
DECISIONS: Final = "decisions"
"""The array that counts connections."""
HITS_MAP: Final = "hits"
"""The array that counts connections by the match that has taken them."""
NAMES_MAP: Final = "seen_names"
"""The map with names that connections had."""
SOURCES: Final = "sources_shown"
"""The map with what each source has in the ring."""
_SCRATCHES: Final = "scratches"
UDP_FLOWS: Final = "udp_flows"
"""The map with the classes of QUIC's flows."""
LASTING: Final = (FLOWS, DECISIONS, UDP_FLOWS, HITS_MAP, NAMES_MAP)
"""The maps of an interface that outlive a policy, and a process."""
SHARED: Final = (BEGINNINGS, VERDICTS, SOURCES, _SCRATCHES)
"""The maps that programs of several interfaces have in common (:mod:`datapath.ebpf.shared_maps`). They last as well."""
SETTINGS: Final = "settings"
"""The map with ``struct settings``, of which the number of the policy is the first word."""


class ObjectMissingError(PodlaneError):
    """The programs were not compiled when this Podlane was built."""

    def __init__(self) -> None:
        super().__init__(
            "The programs of datapath: ebpf are not part of this installation, since there was no clang when it was "
            "built. Install clang and libbpf-dev and build again (make build), or use the container image."
        )


def load(
    maps: PolicyMaps,
    reuse: Mapping[str, int] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    names: Collection[str] = (EGRESS, INGRESS),
) -> BpfObject:
    """Load the programs of these ``names`` and fill their maps. ``reuse``: descriptors of maps to go on with, by name.
    ``sizes``: of maps that no policy fills. The kernel takes long to check each program.

    The caller closes the object. Raises :class:`ObjectMissingError`, :class:`BpfError`.
    """
    if not OBJECT.exists():
        raise ObjectMissingError
    loaded = BpfObject(OBJECT)
    try:
        unwanted = [name for name in (EGRESS, INGRESS, TO_POD, JUDGE, CARRIED) if name not in names]
        loaded.load({**maps.sizes, **(sizes or {})}, reuse, unwanted)
        for name, entries in maps.entries.items():
            loaded.map(name).fill(entries.items())
    except BpfError:
        loaded.close()
        raise
    return loaded
