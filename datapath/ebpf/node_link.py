"""The node's end of a Pod's link: the other end of the veth pair whose one end is the Pod's interface (veth(4)).

What the Pod sends arrives there whatever way it was sent, with its socket: the kernel keeps that when a packet goes
from one network namespace to another (skb_scrub_packet() in net/core/skbuff.c, since Linux 4.19). Programs of the Pod
cannot take away what is there.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from datapath.ebpf.hooks import foreign_programs
from datapath.network_namespace import NetworkNamespace
from tc_core.compile.packet_tree import ifb_name
from tc_core.diff import is_ours
from tc_core.errors import InterfaceNotFoundError
from tc_core.kernel import Kernel
from tc_core.model import Filter, OtherQdisc, RedirectFilter
from tc_core.netlink.codec import REQUEST, NetlinkError, attribute, attributes, message, number
from tc_core.netlink.socket import NetlinkSocket
from tc_core.qdiscs.hooks import PROGRAM_PRIO, PROGRAM_PRIO_ARRIVING
from tc_core.rtnetlink import answers, requests
from tc_core.rtnetlink.messages import LinkMessage
from traffic_policy.errors import PodlaneError

_RTM_GETNSID: Final = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_IFLA_LINK, _IFLA_LINK_NETNSID = 5, 37
_RTGENMSG: Final = struct.Struct("=Bxxx")


class NoNodeLinkError(PodlaneError):
    """The node's end of a Pod's link cannot be used; the text is the reason, as a sentence."""


@dataclass(frozen=True, slots=True)
class NodeLink:
    """The node's end: ``interface`` there, and the number that the Pod's network namespace has there (``sockets``).

    ``lane`` is the number of the Pod's namespace that no other one has.
    """

    interface: str
    sockets: int
    lane: int


def find_node_link(node: NetworkNamespace, pod: NetworkNamespace, interface: str) -> NodeLink:
    """The other end of the Pod's interface, which must be in the node's namespace. Blocks.

    Raises :class:`NoNodeLinkError`, :class:`InterfaceNotFoundError`.
    """
    with pod.entered():
        [mine] = _links(interface)
    kind, peer = answers.link_of(mine).kind, number(mine.attributes, _IFLA_LINK)
    if kind != "veth":
        raise NoNodeLinkError(
            f"{interface} is no end of a veth pair, but {kind or 'a device of the machine'}; there is no other end."
        )
    with node.entered():
        theirs = _of_index(peer)
        sockets = _number_of(pod)
    if (
        theirs is None
        or sockets is None
        or answers.link_of(theirs).kind != "veth"
        or number(theirs.attributes, _IFLA_LINK) != mine.index
        or number(theirs.attributes, _IFLA_LINK_NETNSID, -1) != sockets
    ):
        raise NoNodeLinkError(f"The other end of {interface} is not in the node's network namespace.")
    return NodeLink(answers.link_of(theirs).name, sockets, pod.identity[1] & 0xFFFFFFFF)


def check_free(kernel: Kernel, interface: str) -> None:
    """Raise :class:`NoNodeLinkError` if others have something at that end: their programs may send packets on, past
    our queue, and what our queue has held passes no program again."""
    seen = kernel.observe(interface)
    others = [f"a filter ({each})" for each in (*seen.ingress, *seen.egress) if not _is_our_filter(each, interface)]
    others += foreign_programs(socket.if_nametoindex(interface))
    root = seen.root
    if root is not None and not is_ours(seen) and not (isinstance(root, OtherQdisc) and root.is_default):
        others.append(f"a queue ({root})")
    if others:
        raise NoNodeLinkError(f"Others have traffic control at {interface}, the node's end: {', '.join(others)}.")


def _is_our_filter(found: Filter, interface: str) -> bool:
    if isinstance(found, RedirectFilter):
        return found.device in (ifb_name(interface), "")
    return found.prio in (PROGRAM_PRIO, PROGRAM_PRIO_ARRIVING)


def _of_index(index: int) -> LinkMessage | None:
    try:
        return next((each for each in _links(socket.if_indextoname(index)) if each.index == index), None)
    except (OSError, InterfaceNotFoundError):
        return None


def _links(interface: str) -> Sequence[LinkMessage]:
    with NetlinkSocket() as netlink:
        try:
            found = netlink.ask(requests.link_request(interface))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise NoNodeLinkError(f"The interfaces cannot be read: {error.strerror}.") from None
            raise InterfaceNotFoundError(f"There is no interface {interface} in its network namespace.") from None
    return [LinkMessage.parse(each) for each in found]


def _number_of(other: NetworkNamespace) -> int | None:
    """The number of another network namespace in the one of the calling thread; None: it has none."""
    data = _RTGENMSG.pack(socket.AF_UNSPEC) + attribute(_NETNSA_FD, struct.pack("=I", other.fileno()))
    with NetlinkSocket() as netlink:
        try:
            [answer] = netlink.ask(message(_RTM_GETNSID, data, flags=REQUEST))
        except NetlinkError as error:
            raise NoNodeLinkError(f"The Pod's namespace has no number on the node: {error.strerror}.") from None
    value = attributes(answer, _RTGENMSG.size).get(_NETNSA_NSID)
    found = -1 if value is None else struct.unpack("=i", value)[0]
    return None if found < 0 else found
