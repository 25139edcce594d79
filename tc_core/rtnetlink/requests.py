"""Builds rtnetlink messages for changes and dumps. No I/O: :mod:`tc_core.rtnetlink.kernel` sends them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

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
from tc_core.model import (
    ETH_P_ALL,
    MATCH_ALL,
    BpfInstruction,
    Clsact,
    FwFilter,
    HtbClass,
    OtherFilter,
    OurFilter,
    OurQdisc,
    RedirectFilter,
)
from tc_core.netlink.codec import REQUEST, attribute, text, u32
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import link_message, route_message, tc_message

_STOLEN: Final = 4
"""TC_ACT_STOLEN of linux/pkt_cls.h: the action consumes the packet, as a redirection does."""
_PIPE: Final = 3
"""TC_ACT_PIPE: on to the next action."""


def _kind(kind: str, options: bytes | None = None) -> bytes:
    """TCA_KIND, and TCA_OPTIONS if there are any."""
    return text(m.TCA_KIND, kind) + (attribute(m.TCA_OPTIONS, options) if options is not None else b"")


def _filter_info(prio: int, protocol: int) -> int:
    """tcm_info of a filter: its priority, and the Ethernet type in network order."""
    return prio << 16 | socket.htons(protocol)


def _filter_options(wanted: OurFilter, program: int | None, device: int | None) -> bytes:
    if isinstance(wanted, FwFilter):
        return u32(m.TCA_FW_CLASSID, int(wanted.target)) + u32(m.TCA_FW_MASK, wanted.mark.mask)
    if isinstance(wanted, RedirectFilter):
        code = _classic(MATCH_ALL) if program is None else _loaded(program, wanted.program)
        return attribute(m.TCA_BPF_ACT, _redirect(device or 0, connmark=wanted.connmark)) + code
    return _classic(
        wanted.instructions or classic_program(wanted.class_ids or frozenset(), wanted.parent.major << 16 | 0x100)
    )


def _loaded(program: int, name: str) -> bytes:
    return u32(m.TCA_BPF_FD, program) + text(m.TCA_BPF_NAME, name)


def _classic(instructions: Sequence[BpfInstruction]) -> bytes:
    count = attribute(m.TCA_BPF_OPS_LEN, struct.pack("=H", len(instructions)))
    return count + attribute(m.TCA_BPF_OPS, classic_bytes(instructions))


def _redirect(device: int, *, connmark: bool) -> bytes:
    """The action ``mirred egress redirect`` to the interface with this index; ``connmark`` before it if asked for."""
    actions = []
    if connmark:
        actions.append(_action("connmark", m.TCA_CONNMARK_PARMS, m.CONNMARK.pack(0, 0, _PIPE, 0, 0, 0)))
    mirred = m.MIRRED.pack(0, 0, _STOLEN, 0, 0, m.EGRESS_REDIRECT, device)
    actions.append(_action("mirred", m.TCA_MIRRED_PARMS, mirred))
    return b"".join(attribute(place, action) for place, action in enumerate(actions, 1))


def _action(kind: str, parameter: int, parms: bytes) -> bytes:
    return text(m.TCA_ACT_KIND, kind) + attribute(m.TCA_ACT_OPTIONS, attribute(parameter, parms))


def request(index: int, change: Change, *, program: int | None = None, device: int | None = None) -> bytes:
    """The message that makes a change on the interface with this index.

    ``program`` is the descriptor of the loaded eBPF program of a filter that has one, ``device`` the index of the
    interface to which one redirects. For :class:`AddLink` it is what follows :func:`add_link_request`: the kernel takes
    no alias before the interface is there.
    """
    match change:
        case AddQdisc(qdisc):
            return _qdisc_message(m.MAKE, index, qdisc, creating=True)
        case ChangeQdisc(qdisc):
            return _qdisc_message(m.ALTER, index, qdisc, creating=False)
        case DeleteQdisc(qdisc):
            return tc_message(m.RTM_DELQDISC, m.DELETE, index, int(qdisc.handle), int(qdisc.parent))
        case AddClass(c):
            return _class_message(m.RTM_NEWTCLASS, m.MAKE, index, c, _kind("htb", c.options()))
        case ChangeClass(c):
            return _class_message(m.RTM_NEWTCLASS, m.ALTER, index, c, _kind("htb", c.options()))
        case DeleteClass(c):
            return _class_message(m.RTM_DELTCLASS, m.DELETE, index, c)
        case AddFilter(wanted):
            return _filter_message(m.MAKE, index, wanted, program, device)
        case ReplaceFilter(wanted):
            return _filter_message(m.PUT, index, wanted, program, device)
        case DeleteFilter(existing):
            kind, prio, handle = existing.key
            info = _filter_info(prio, ETH_P_ALL)
            if isinstance(existing, OtherFilter):  # handle 0: all at this priority
                handle, info = 0, _filter_info(prio, existing.protocol)
            return tc_message(m.RTM_DELTFILTER, m.DELETE, index, handle, int(existing.parent), info, _kind(kind))
        case SetLink(gso_max_size=size, tx_queue_len=length, up=up):
            # The first sets gso_ipv4_max_size as well up to 64 KiB (netif_set_gso_max_size, Linux 6.3 and later).
            settings = ((m.IFLA_GSO_MAX_SIZE, size), (m.IFLA_TXQLEN, length))
            data = b"".join(u32(kind, value) for kind, value in settings if value is not None)
            return link_message(m.RTM_NEWLINK, m.ALTER, index, data, up=up)
        case AddLink(alias=alias):
            data = text(m.IFLA_IFALIAS, alias) if alias else b""
            return link_message(m.RTM_NEWLINK, m.ALTER, index, data, up=True)
        case DeleteLink():
            return link_message(m.RTM_DELLINK, m.DELETE, index)


def _qdisc_message(flags: int, index: int, qdisc: OurQdisc, *, creating: bool) -> bytes:
    data = _kind(qdisc.kind, None if isinstance(qdisc, Clsact) else qdisc.options(creating=creating))
    return tc_message(m.RTM_NEWQDISC, flags, index, int(qdisc.handle), int(qdisc.parent), data=data)


def _class_message(kind: int, flags: int, index: int, traffic_class: HtbClass, data: bytes = b"") -> bytes:
    return tc_message(kind, flags, index, int(traffic_class.handle), int(traffic_class.parent), data=data)


def _filter_message(flags: int, index: int, wanted: OurFilter, program: int | None, device: int | None) -> bytes:
    kind, prio, handle = wanted.key
    info = _filter_info(prio, ETH_P_ALL)
    data = _kind(kind, _filter_options(wanted, program, device))
    return tc_message(m.RTM_NEWTFILTER, flags, index, handle, int(wanted.parent), info, data)


def dump_request(kind: int, index: int, parent: Handle | None = None) -> bytes:
    """Ask for all qdiscs (RTM_GETQDISC), classes or filters of an interface; filters are those of ``parent``."""
    return tc_message(kind, m.ASK_ALL, index, 0, int(parent or Handle(0)))


def link_request(interface: str | None) -> bytes:
    """Ask for one interface by name, or for all of them."""
    if interface is None:
        return link_message(m.RTM_GETLINK, m.ASK_ALL, 0)
    return link_message(m.RTM_GETLINK, REQUEST, 0, text(m.IFLA_IFNAME, interface))


def add_link_request(name: str, kind: str) -> bytes:
    """Make a virtual interface of this kind, which stays down. Of a veth pair the kernel names the other end."""
    data = text(m.IFLA_IFNAME, name) + attribute(m.IFLA_LINKINFO, text(m.IFLA_INFO_KIND, kind))
    return link_message(m.RTM_NEWLINK, m.MAKE, 0, data)


def delete_link_request(name: str) -> bytes:
    """Remove an interface, and the other end of a pair with it."""
    return link_message(m.RTM_DELLINK, m.DELETE, 0, text(m.IFLA_IFNAME, name))


def routes_request(family: int) -> bytes:
    """Ask for all routes of an address family."""
    return route_message(m.RTM_GETROUTE, m.ASK_ALL, family)
