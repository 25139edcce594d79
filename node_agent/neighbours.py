"""What others hold a Pod to at the node's end of its link: CNI's bandwidth plugin, Cilium's bandwidth manager.

Both take their limits from the annotations ``kubernetes.io/ingress-bandwidth`` and ``egress-bandwidth``, and know no
classes: what waits in their queue waits there whatever its class. The plugin lays tbf at the node's end for what the
Pod receives, and leads what it sends, by u32, to an ifb named ``bwp...`` (https://www.cni.dev/plugins/current/meta/bandwidth/).
Cilium's program at the node's end, of an interface named ``lxc...``, says when a packet may leave, and fq at the node's
own interface keeps to that (https://docs.cilium.io/en/stable/network/kubernetes/bandwidth-manager/).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from daemon.log import Logger
from datapath.ebpf.hooks import foreign_programs
from datapath.ebpf.libbpf import BpfError
from datapath.ebpf.node_link import NoNodeLinkError, find_node_link
from datapath.network_namespace import NetworkNamespace
from node_agent.place import NodeEnds
from tc_core.diff import is_ours
from tc_core.errors import InterfaceNotFoundError, KernelError
from tc_core.model import Filter, Observed, OtherFilter, OtherQdisc
from tc_core.qdiscs.tbf import Tbf
from tc_core.rtnetlink.kernel import NetlinkKernel

_PLUGIN_IFB: Final = "bwp"
_CILIUM_LINK: Final = "lxc"
_CILIUM_PROGRAM: Final = "the program cil_"
_PACED: Final = "fq"
_REMEDY: Final = "It knows no classes. Remove the annotation {} to have the policy alone."
_CILIUM: Final = (
    "Cilium's bandwidth manager is on its node (a program of Cilium at the node's end of its link, fq at {uplink}), "
    "and holds a Pod to its annotation kubernetes.io/egress-bandwidth"
)

log_some = Logger(spacing=3600.0)


def limits_of_others(ends: NodeEnds, pod: NetworkNamespace, interface: str, *, annotated: bool) -> tuple[str, ...]:
    """Sentences about what holds the Pod beside its lanes; none: nothing that can be seen. Blocks.

    ``annotated``: the Pod has an annotation that Cilium reads; without one its manager holds the Pod to nothing.
    """
    for node in ends.namespaces:
        with suppress(NoNodeLinkError, InterfaceNotFoundError, KernelError):
            link = find_node_link(node, pod, interface)
            with node.entered(), NetlinkKernel() as kernel:
                seen = kernel.observe(link.interface)
                found = list(_of_plugin(kernel, seen))
                if cilium := _of_cilium(kernel, seen):
                    if annotated:
                        found.append(f"{cilium}. {_REMEDY.format('kubernetes.io/egress-bandwidth')}")
                    else:
                        log_some.info(f"{cilium}, which this one has not: give limits by policies alone")
                return tuple(found)
    return ()


def _of_plugin(kernel: NetlinkKernel, seen: Observed) -> Iterator[str]:
    if isinstance(seen.root, Tbf) and not is_ours(seen):
        yield (
            f"A tbf of others at the node's end of its link holds what it receives to {seen.root.rate}, as CNI's "
            "bandwidth plugin does. "
            f"{_REMEDY.format('kubernetes.io/ingress-bandwidth')}"
        )
    leads_away = any(isinstance(each, OtherFilter) and each.kind == "u32" for each in seen.ingress)
    if leads_away and any(name.startswith(_PLUGIN_IFB) for name in kernel.interfaces()):
        yield (
            "A device of CNI's bandwidth plugin, behind the node's end of its link, holds what it sends. "
            f"{_REMEDY.format('kubernetes.io/egress-bandwidth')}"
        )


def _of_cilium(kernel: NetlinkKernel, seen: Observed) -> str:
    """Where Cilium's bandwidth manager is, as the beginning of a sentence; empty: it is not."""
    name = seen.link.name
    if not name.startswith(_CILIUM_LINK):
        return ""
    try:
        programs = foreign_programs(socket.if_nametoindex(name))
    except (BpfError, OSError):
        programs = []
    uplink = kernel.default_route_interface()
    return "" if uplink is None else cilium_at(seen, programs, kernel.observe(uplink))


def cilium_at(seen: Observed, programs: Sequence[str], uplink: Observed) -> str:
    """The same, of what is at the node's end of a Pod's link, as programs at tcx or as filters, and at the node's own
    interface. Pure."""
    is_there = any(each.startswith(_CILIUM_PROGRAM) for each in programs)
    if not is_there and not any(_is_program(each) for each in (*seen.ingress, *seen.egress)):
        return ""
    if not any(isinstance(each, OtherQdisc) and each.kind == _PACED for each in uplink.qdiscs):
        return ""
    return _CILIUM.format(uplink=uplink.link.name)


def _is_program(found: Filter) -> bool:
    return isinstance(found, OtherFilter) and found.kind == "bpf"
