"""Changes and questions as rtnetlink messages. No I/O: :mod:`tc_core.netlink` sends them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tc_core.bpf.mark_classifier import classic_bytes, classic_program
from tc_core.handles import Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddLink,
    AddQdisc,
    Change,
    ChangeClass,
    ChangeQdisc,
    DeleteClass,
    DeleteFilter,
    DeleteLink,
    DeleteQdisc,
    ReplaceFilter,
    SetLink,
)
from tc_core.layouts import EGRESS_REDIRECT, TcMessage
from tc_core.model import (
    ETH_P_ALL,
    MATCH_ALL,
    BpfInstruction,
    FwFilter,
    HtbClass,
    OtherFilter,
    OurFilter,
    RedirectFilter,
)
from tc_core.qdisc_layouts import ETHERNET, U32, burst_ticks
from tc_core.qdisc_options import options_of

_STOLEN: Final = 4
"""TC_ACT_STOLEN of linux/pkt_cls.h: the packet is nobody else's any more, as a redirected one is not."""
_PIPE: Final = 3
"""TC_ACT_PIPE: on to the next action."""
_IFF_UP: Final = 1

_CREATE: Final = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_CHANGE: Final = NLM_F_REQUEST | NLM_F_ACK
_DELETE: Final = NLM_F_REQUEST | NLM_F_ACK
_REPLACE: Final = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
DUMP: Final = NLM_F_REQUEST | NLM_F_DUMP


def _tc_message(
    kind: int, flags: int, index: int, handle: int, parent: Handle, *, info: int = 0, attributes: Iterable[Any] = ()
) -> Any:
    message = TcMessage()
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["index"] = index
    message["handle"] = handle
    message["parent"] = int(parent)
    message["info"] = info
    message["attrs"] = list(attributes)
    return message


def _options(kind: str, attributes: Iterable[Any]) -> list[Any]:
    return [["TCA_KIND", kind], ["TCA_OPTIONS", {"attrs": list(attributes)}]]


def _class_attributes(traffic_class: HtbClass) -> list[Any]:
    rate, ceil = traffic_class.rate.bytes_per_second, traffic_class.ceil.bytes_per_second
    parms = {
        "rate_linklayer": ETHERNET,
        "rate": min(rate, U32),
        "ceil_linklayer": ETHERNET,
        "ceil": min(ceil, U32),
        "buffer": burst_ticks(traffic_class.rate, traffic_class.burst),
        "cbuffer": burst_ticks(traffic_class.ceil, traffic_class.cburst),
        "quantum": traffic_class.quantum.count,
        "prio": traffic_class.prio,
    }
    attributes: list[Any] = [["TCA_HTB_PARMS", parms]]
    if rate > U32:
        attributes.append(["TCA_HTB_RATE64", rate])
    if ceil > U32:
        attributes.append(["TCA_HTB_CEIL64", ceil])
    return _options("htb", attributes)


def _filter_info(prio: int, protocol: int) -> int:
    """tcm_info of a filter: its priority, and the Ethernet type in network order."""
    return prio << 16 | socket.htons(protocol)


def _filter_attributes(wanted: OurFilter, program: int | None, device: int | None) -> list[Any]:
    if isinstance(wanted, FwFilter):
        return _options("fw", [["TCA_FW_CLASSID", int(wanted.target)], ["TCA_FW_MASK", wanted.mark.mask]])
    if isinstance(wanted, RedirectFilter):
        loaded = [["TCA_BPF_FD", program], ["TCA_BPF_NAME", wanted.program]]
        code = loaded if program is not None else _classic(MATCH_ALL)
        return _options("bpf", [["TCA_BPF_ACT", _redirect(device or 0, connmark=wanted.connmark)], *code])
    instructions = wanted.instructions or classic_program(
        wanted.class_ids or frozenset(), wanted.parent.major << 16 | 0x100
    )
    return _options("bpf", _classic(instructions))


def _classic(instructions: Sequence[BpfInstruction]) -> list[Any]:
    return [["TCA_BPF_OPS_LEN", len(instructions)], ["TCA_BPF_OPS", classic_bytes(instructions)]]


def _redirect(device: int, *, connmark: bool) -> dict[str, Any]:
    """The action ``mirred egress redirect`` to the interface with this index; ``connmark`` before it if asked for."""
    actions = [_action("connmark", "TCA_CONNMARK_PARMS", {"action": _PIPE})] if connmark else []
    redirect = {"action": _STOLEN, "eaction": EGRESS_REDIRECT, "ifindex": device}
    actions.append(_action("mirred", "TCA_MIRRED_PARMS", redirect))
    return {"attrs": [[f"TCA_ACT_PRIO_{place}", action] for place, action in enumerate(actions, 1)]}


def _action(kind: str, name: str, parms: Mapping[str, int]) -> dict[str, Any]:
    return {"attrs": [["TCA_ACT_KIND", kind], ["TCA_ACT_OPTIONS", {"attrs": [[name, parms]]}]]}


def request(index: int, change: Change, *, program: int | None = None, device: int | None = None) -> Any:
    """The message that makes a change on the interface with this index.

    ``program`` is the descriptor of the loaded eBPF program of a filter that has one, ``device`` the index of the
    interface to which one redirects. For :class:`AddLink` it is what follows :func:`add_link_request`: the kernel takes
    no alias before the interface is there.
    """
    match change:
        case AddQdisc(qdisc):
            attributes = options_of(qdisc, creating=True)
            return _tc_message(
                rtnl.RTM_NEWQDISC, _CREATE, index, int(qdisc.handle), qdisc.parent, attributes=attributes
            )
        case ChangeQdisc(qdisc):
            attributes = options_of(qdisc, creating=False)
            return _tc_message(
                rtnl.RTM_NEWQDISC, _CHANGE, index, int(qdisc.handle), qdisc.parent, attributes=attributes
            )
        case DeleteQdisc(qdisc):
            return _tc_message(rtnl.RTM_DELQDISC, _DELETE, index, int(qdisc.handle), qdisc.parent)
        case AddClass(c):
            return _class_message(rtnl.RTM_NEWTCLASS, _CREATE, index, c, _class_attributes(c))
        case ChangeClass(c):
            return _class_message(rtnl.RTM_NEWTCLASS, _CHANGE, index, c, _class_attributes(c))
        case DeleteClass(c):
            return _class_message(rtnl.RTM_DELTCLASS, _DELETE, index, c, [])
        case AddFilter(wanted):
            return _filter_message(_CREATE, index, wanted, program, device)
        case ReplaceFilter(wanted):
            return _filter_message(_REPLACE, index, wanted, program, device)
        case DeleteFilter(existing):
            kind, prio, handle = existing.key
            info = _filter_info(prio, ETH_P_ALL)
            if isinstance(existing, OtherFilter):  # handle 0: all at this priority
                handle, info = 0, _filter_info(prio, existing.protocol)
            return _tc_message(
                rtnl.RTM_DELTFILTER, _DELETE, index, handle, existing.parent, info=info, attributes=[["TCA_KIND", kind]]
            )
        case SetLink():
            # The first sets gso_ipv4_max_size as well up to 64 KiB (netif_set_gso_max_size, Linux 6.3 and later).
            settings = {"IFLA_GSO_MAX_SIZE": change.gso_max_size, "IFLA_TXQLEN": change.tx_queue_len}
            return _link_message(rtnl.RTM_NEWLINK, index, settings, up=change.up)
        case AddLink():
            return _link_message(rtnl.RTM_NEWLINK, index, {"IFLA_IFALIAS": change.alias or None}, up=True)
        case DeleteLink():
            return _link_message(rtnl.RTM_DELLINK, index, {})


def _class_message(kind: int, flags: int, index: int, traffic_class: HtbClass, attributes: list[Any]) -> Any:
    return _tc_message(kind, flags, index, int(traffic_class.handle), traffic_class.parent, attributes=attributes)


def _filter_message(flags: int, index: int, wanted: OurFilter, program: int | None, device: int | None) -> Any:
    _, prio, handle = wanted.key
    info = _filter_info(prio, ETH_P_ALL)
    attributes = _filter_attributes(wanted, program, device)
    return _tc_message(rtnl.RTM_NEWTFILTER, flags, index, handle, wanted.parent, info=info, attributes=attributes)


def _link_message(kind: int, index: int, settings: Mapping[str, object], *, up: bool | None = None) -> Any:
    message = ifinfmsg()
    message["header"]["type"] = kind
    message["header"]["flags"] = _CHANGE
    message["index"] = index
    if up is not None:
        message["flags"], message["change"] = (_IFF_UP if up else 0), _IFF_UP
    message["attrs"] = [[name, value] for name, value in settings.items() if value is not None]
    return message


def dump_request(kind: int, index: int, parent: Handle | None = None) -> Any:
    """Ask for all qdiscs (RTM_GETQDISC), classes or filters of an interface; filters are those of ``parent``."""
    return _tc_message(kind, DUMP, index, 0, parent or Handle(0))


def link_request(interface: str | None) -> Any:
    """Ask for one interface by name, or for all of them."""
    message = ifinfmsg()
    message["header"]["type"] = rtnl.RTM_GETLINK
    message["header"]["flags"] = DUMP if interface is None else NLM_F_REQUEST
    message["attrs"] = [] if interface is None else [["IFLA_IFNAME", interface]]
    return message


def add_link_request(name: str, kind: str) -> Any:
    """Make a virtual interface of this kind, which stays down. Of a veth pair the kernel names the other end."""
    message = ifinfmsg()
    message["header"]["type"] = rtnl.RTM_NEWLINK
    message["header"]["flags"] = _CREATE
    message["attrs"] = [["IFLA_IFNAME", name], ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", kind]]}]]
    return message


def delete_link_request(name: str) -> Any:
    """Remove an interface, and the other end of a pair with it."""
    message = ifinfmsg()
    message["header"]["type"] = rtnl.RTM_DELLINK
    message["header"]["flags"] = _DELETE
    message["attrs"] = [["IFLA_IFNAME", name]]
    return message


def routes_request(family: int) -> Any:
    """Ask for all routes of an address family."""
    message = rtmsg()
    message["header"]["type"] = rtnl.RTM_GETROUTE
    message["header"]["flags"] = DUMP
    message["family"] = family
    return message
