"""At which end of a Pod's link its lanes are: its own, or the node's, which no program of the Pod can reach.

At the node's end there have to be programs (``datapath: ebpf``), a veth pair, and nobody else's traffic control. Where
one of these is missing, lanes are at the Pod's end, and the reason is told.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.log import Logger
from datapath.cleanup import remove_leftovers
from datapath.ebpf.lane import remove_programs
from datapath.ebpf.node_link import NodeLink, NoNodeLinkError, check_free, find_node_link
from datapath.instance_lock import hold_instance_lock
from datapath.network_namespace import NetworkNamespace
from node_agent.datapath import ChosenDatapath
from tc_core.apply.execute import clear
from tc_core.compile.packet_tree import arrives_at, is_our_ifb
from tc_core.errors import InterfaceNotFoundError
from tc_core.kernel import DeleteLink
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.errors import PodlaneError
from traffic_policy.settings import Datapath, Enforce

_OWN: Final = Path("/proc/thread-self/ns/net")
_OF_THE_MACHINE: Final = Path("/proc/1/ns/net")
"""Of an agent whose Pod has the node's processes (hostPID), but a network of its own."""

log = Logger()


@dataclass(frozen=True, slots=True)
class LanePlace:
    """``link`` and ``namespace``, the node's: lanes are at the node's end. ``reason``: why they are not, as a sentence,
    although that was asked for."""

    link: NodeLink | None = None
    namespace: NetworkNamespace | None = None
    reason: str = ""

    @property
    def note(self) -> str:
        """Where they are, as a sentence; empty where that is as ever."""
        if self.link is not None:
            return f"They are at the node's end of its link, {self.link.interface}."
        return f"They are at the Pod's own end. {self.reason}" if self.reason else ""

    @property
    def end(self) -> Enforce:
        """Which end holds the Pod."""
        return Enforce.POD if self.link is None else Enforce.HOST


@dataclass(frozen=True, slots=True)
class NodeEnds:
    """What holds for all workloads of a node: which end was ``asked`` for, and the network namespaces in which the
    node's ends may be. They stay open."""

    asked: Enforce = Enforce.POD
    namespaces: tuple[NetworkNamespace, ...] = ()

    @classmethod
    def of_this_node(cls, asked: Enforce) -> NodeEnds:
        """Those of this process and of the machine's first one."""
        found: dict[object, NetworkNamespace] = {}
        for path in (_OWN, _OF_THE_MACHINE):
            with suppress(PodlaneError):
                namespace = NetworkNamespace(path)
                if found.setdefault(namespace.identity, namespace) is not namespace:
                    namespace.close()
        return cls(asked, tuple(found.values()))

    def place(self, pod: NetworkNamespace, interface: str, chosen: ChosenDatapath) -> LanePlace:
        """Where the lanes of an interface are to be. Blocks. Raises :class:`InterfaceNotFoundError`."""
        if self.asked is Enforce.POD:
            return LanePlace()
        if chosen.datapath is not Datapath.EBPF:
            return LanePlace(reason=f"At the node's end only programs decide. {chosen.reason}".rstrip())
        reason = "The node's network namespace is not known."
        for namespace in self.namespaces:
            try:
                link = find_node_link(namespace, pod, interface)
                with namespace.entered(), NetlinkKernel() as kernel:
                    _remove_orphans(kernel)
                    check_free(kernel, link.interface)
            except NoNodeLinkError as error:
                reason = str(error)
            else:
                return LanePlace(link, namespace)
        return LanePlace(reason=reason)

    def remove_orphans(self) -> None:
        """Remove devices of Pods that are gone, whose link has gone with them. Blocks."""
        for namespace in self.namespaces:
            with namespace.entered(), NetlinkKernel() as kernel:
                _remove_orphans(kernel)

    def remove(self, pod: NetworkNamespace, interface: str | None, node_interface: str) -> None:
        """Remove what an agent has left at either end. Blocks.

        ``node_interface`` is that at the node's end; empty: lanes were at the Pod's, at ``interface``. Raises the
        errors of :mod:`datapath.errors`, the first one :class:`~datapath.errors.InstanceRunningError`.
        """
        with pod.entered(), hold_instance_lock():
            if node_interface:
                self.remove_at_node(pod, node_interface)
            else:
                remove_leftovers(interface)

    def remove_at_node(self, pod: NetworkNamespace, node_interface: str) -> None:
        """Remove what is at the node's end. What has come to another end since is no concern of ours: a link goes with
        all that was there."""
        for namespace in self.namespaces:
            with suppress(InterfaceNotFoundError), namespace.entered(), NetlinkKernel() as kernel:
                link = kernel.observe(node_interface).link
                if link.kind == "veth" and _leads_to(namespace, pod, node_interface):
                    remove_programs(node_interface, at_node=True)
                    clear(kernel, node_interface)
                    return


def _leads_to(node: NetworkNamespace, pod: NetworkNamespace, node_interface: str) -> bool:
    with pod.entered(), NetlinkKernel() as kernel:
        mine = list(kernel.interfaces())
    for interface in mine:
        with suppress(NoNodeLinkError, InterfaceNotFoundError):
            if find_node_link(node, pod, interface).interface == node_interface:
                return True
    return False


def _remove_orphans(kernel: NetlinkKernel) -> None:
    there = kernel.interfaces()
    for name, link in there.items():
        if is_our_ifb(link.alias) and arrives_at(link.alias) not in there:
            kernel.apply(name, DeleteLink())
            log.info("removed, since its link is gone", interface=name)
