"""Reading rules from the kernel's own form: the binary entries of a legacy table.

An entry is a fixed head (addresses, interfaces, protocol), a row of matches and one target, each of these two with its
name, its revision and a structure of its own. All of that is kernel ABI: linux/netfilter_ipv4/ip_tables.h,
linux/netfilter_ipv6/ip6_tables.h, linux/netfilter/x_tables.h and the xt_*.h that each structure below names.

Only what Podlane writes is read. An entry that says anything else becomes a text, which can be shown but never equals
anything wanted. Reading by the library's own printing functions would mean to redirect the standard output of the whole
process into a pipe, while other threads write their log to it.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from datapath.netfilter import packet_filters
from datapath.netfilter.packet_filters import Instruction
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    Action,
    ConntrackDirection,
    Drop,
    Family,
    Goto,
    Jump,
    Nfqueue,
    ResetPriority,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
)
from traffic_policy.marks import Mark
from traffic_policy.policy import Network, PortRange, TransportProtocol

ENTRY_SIZE: Final = {Family.V4: 112, Family.V6: 168}
"""sizeof(struct ipt_entry), sizeof(struct ip6t_entry): where the matches begin."""
PROTOCOL_NUMBERS: Final = {
    Family.V4: {"tcp": 6, "udp": 17, "icmp": 1},
    Family.V6: {"tcp": 6, "udp": 17, "icmp": 58},
}
"""IANA's numbers of the protocols that rules name; what a policy calls icmp is another protocol in IPv6."""

_IPT_IP: Final = struct.Struct("=4s4s4s4s16s16s16s16sHBB")
"""struct ipt_ip: source, destination, their masks, interfaces in and out, their masks, protocol, flags, inversions."""
_IP6T_IP6: Final = struct.Struct("=16s16s16s16s16s16s16s16sHBBB")
"""struct ip6t_ip6: the same with a traffic class in front of the flags."""
_OFFSETS: Final = {Family.V4: 88, Family.V6: 140}
"""Where target_offset and next_offset are in an entry."""
_GOTO: Final = {Family.V4: 0x02, Family.V6: 0x04}
_HAS_PROTOCOL: Final = 0x01
"""IP6T_F_PROTO: without it IPv6 does not look at the protocol."""
_NOT_OUT: Final = 0x02
"""IPT_INV_VIA_OUT and IP6T_INV_VIA_OUT."""
_EXTENSION: Final = struct.Struct("=H29sB")
"""The head of struct xt_entry_match and xt_entry_target: size with head and padding, name, revision."""

_XT_TCP: Final = struct.Struct("=HHHHBBBB")
"""xt_tcpudp.h: source ports, destination ports, option, flags looked at, flags set, inversions."""
_XT_UDP: Final = struct.Struct("=HHHHB")
_ANY_PORT: Final = (0, 0xFFFF)
_SYN: Final = (0x17, 0x02)
"""FIN, SYN, RST, ACK looked at, SYN set."""
_XT_MULTIPORT: Final = struct.Struct("=BB15H15BB")
"""xt_multiport.h, xt_multiport_v1: what ports, how many, the ports, which of them begin a range, inversion."""
_SOURCE_PORTS, _DESTINATION_PORTS = 0, 1
_XT_MARK: Final = struct.Struct("=IIB")
"""xt_mark.h, xt_mark_mtinfo1, and xt_connmark.h, xt_connmark_mtinfo1: value, mask, inversion."""
_XT_CONNTRACK_FLAGS: Final = 146
"""xt_conntrack.h, xt_conntrack_mtinfo3: where match_flags and invert_flags are."""
_CT_DIRECTION: Final = 1 << 12
_CT_ORIGINAL_PORT: Final = 1 << 9
_XT_CONNTRACK_PORT: Final = 140, 156
"""In revision 3: where the original destination's port is, and the last one of a range; both in host byte order."""
_XT_OWNER: Final = struct.Struct("=IIIIBB")
"""xt_owner.h, xt_owner_match_info: first and last uid, first and last gid, what is asked for, what is inverted."""
_OWNER_USER, _OWNER_GROUP, _OWNER_SOCKET = 1, 2, 4
_XT_ADDRTYPE: Final = struct.Struct("=HHI")
"""xt_addrtype.h, xt_addrtype_info_v1: kinds of source, kinds of destination, flags."""
_LOCAL: Final = 1 << 2
"""XT_ADDRTYPE_LOCAL"""
_NO_WILDCARD: Final = 1 << 1
"""xt_socket.h, XT_SOCKET_NOWILDCARD: sockets that listen on every address count, too."""
_XT_MARK_SET: Final = struct.Struct("=II")
"""xt_mark.h, xt_mark_tginfo2."""
_XT_CLASSIFY: Final = struct.Struct("=I")
"""xt_CLASSIFY.h: the priority."""
_XT_CONNMARK_SET: Final = {1: struct.Struct("=IIIB"), 2: struct.Struct("=IIIxxB")}
"""xt_connmark.h by revision: value, mask, mask of the packet's mark (for saving), mode; 2 has a shift in between."""
_SET, _SAVE, _RESTORE = 0, 1, 2
"""enum of xt_connmark.h: what CONNMARK does."""
_XT_NFQUEUE: Final = struct.Struct("=HHH")
"""xt_NFQUEUE.h, xt_NFQ_info_v3: the queue's number, how many queues, flags."""
_BYPASS: Final = 0x01
_XT_BPF: Final = {0: struct.Struct("=HH"), 1: struct.Struct("=HHi")}
"""xt_bpf.h by revision: 0 has the number of instructions; 1 a mode (0: bytecode) in front, and a descriptor behind it.
Then come the instructions."""
_SOCK_FILTER: Final = struct.Struct("=HBBI")
_XT_TPROXY: Final = struct.Struct("=II16s2s")
"""xt_TPROXY.h, xt_tproxy_target_info_v1: mask, value, address, port; the last two in network byte order."""


class _OtherwiseError(ValueError):
    """The entry says something that :class:`Rule` has no field for."""


@dataclass(frozen=True, slots=True)
class _Extension:
    """A match or target: its name, its revision, and its structure."""

    name: str
    revision: int
    data: bytes


def target_offset(entry: bytes, family: Family) -> int:
    """Where an entry's target begins."""
    return int(struct.unpack_from("=H", entry, _OFFSETS[family])[0])


def decode(entry: bytes, family: Family, target: str) -> Rule | str:
    """An entry as data, or a text about it when it is none that we could have written.

    ``target`` is its name as libiptc tells it; in the entry itself a jump is just an offset into the table.
    """
    try:
        return _rule(entry, family, target)
    except (ValueError, struct.error):
        modules = [f"-m {match.name}" for match in _matches(entry, family)]
        goto = _head(entry, family)[-2] & _GOTO[family]
        # The last words keep it from being taken for a rule that has no other criteria.
        return " ".join([*modules, "-g" if goto else "-j", target, "(with options that Podlane does not use)"])


def _rule(entry: bytes, family: Family, target: str) -> Rule:
    source, destination, source_mask, destination_mask, *interfaces, number, flags, inverted = _head(entry, family)
    if inverted & ~_NOT_OUT:
        raise _OtherwiseError("an inversion that is not ours")
    found: dict[str, object] = {}
    if any(source_mask):
        found["source"] = _network(source, source_mask)
    if any(destination_mask):
        found["destination"] = _network(destination, destination_mask)
    interface_in, interface_out, mask_in, mask_out = interfaces
    if any(mask_in):
        found["in_interface"] = _interface(interface_in, mask_in)
    if any(mask_out):
        key = "not_out_interface" if inverted & _NOT_OUT else "out_interface"
        found[key] = _interface(interface_out, mask_out)
    elif inverted:
        raise _OtherwiseError("no interface at all")
    if number and (family is Family.V4 or flags & _HAS_PROTOCOL):
        found["protocol"] = _protocol(number, family)
    if flags & ~(_GOTO[family] | (_HAS_PROTOCOL if family is Family.V6 else 0)):
        raise _OtherwiseError("another flag")
    for match in _matches(entry, family):
        for name, value in _criteria(match, family):
            if name in found:
                raise _OtherwiseError(f"{name} twice")
            found[name] = value
    found["action"] = _action(entry, family, target, goto=bool(flags & _GOTO[family]))
    return Rule(**found)  # type: ignore[arg-type]  # every key has its field's type


def _head(entry: bytes, family: Family) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, int, int, int]:
    if family is Family.V4:
        return _IPT_IP.unpack_from(entry)
    *fields, _traffic_class, flags, inverted = _IP6T_IP6.unpack_from(entry)
    return (*fields, flags, inverted)


def _protocol(number: int, family: Family) -> TransportProtocol:
    for name, known in PROTOCOL_NUMBERS[family].items():
        if known == number:
            return TransportProtocol(name)
    raise _OtherwiseError("another protocol")


def _network(address: bytes, mask: bytes) -> Network:
    ones = int.from_bytes(mask, "big")
    bits = len(mask) * 8
    length = ones.bit_count()
    if ones != ((1 << length) - 1) << (bits - length):
        raise _OtherwiseError("a mask with holes")
    return ipaddress.ip_network((address, length))


def _interface(name: bytes, mask: bytes) -> str:
    text = name.rstrip(b"\0")
    # The terminating zero is compared, too; where it is not, or not every bit is, other names match as well.
    if mask.rstrip(b"\0") != b"\xff" * (len(text) + 1):
        raise _OtherwiseError("a pattern of names")
    return text.decode()


def _matches(entry: bytes, family: Family) -> Iterator[_Extension]:
    at, end = ENTRY_SIZE[family], target_offset(entry, family)
    while at < end:
        size, name, revision = _EXTENSION.unpack_from(entry, at)
        yield _Extension(_text(name), revision, entry[at + _EXTENSION.size : at + size])
        at += max(size, _EXTENSION.size)


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode()


def _criteria(match: _Extension, family: Family) -> Iterator[tuple[str, object]]:
    match (match.name, match.revision):
        case "tcp", 0:
            *ports, option, looked_at, flags, inverted = _XT_TCP.unpack_from(match.data)
            if option or inverted or (looked_at, flags) not in ((0, 0), _SYN):
                raise _OtherwiseError("other flags")
            yield from _single_port(ports)
            if looked_at:
                yield "syn", True
        case "udp", 0:
            *ports, inverted = _XT_UDP.unpack_from(match.data)
            if inverted:
                raise _OtherwiseError("inverted")
            yield from _single_port(ports)
        case "multiport", 1:
            yield _port_ranges(match.data)
        case ("mark" | "connmark") as name, 1:
            value, mask, inverted = _XT_MARK.unpack_from(match.data)
            if inverted:
                raise _OtherwiseError("inverted")
            yield name, Mark(value, mask)
        case "conntrack", 2 | 3:
            yield _tracked(match)
        case "owner", 1:
            yield _owner(match.data)
        case "addrtype", 1:
            if _XT_ADDRTYPE.unpack_from(match.data) != (0, _LOCAL, 0):
                raise _OtherwiseError("other kinds of addresses")
            yield "to_here", True
        case "socket", 1 | 2 | 3:
            if match.data[0] != _NO_WILDCARD:
                raise _OtherwiseError("other sockets")
            yield "has_socket", True
        case "bpf", 0 | 1:
            program = tuple(_program(match))
            if program == packet_filters.CARRIES_DATA[family]:
                yield "carries_data", True
            elif program == packet_filters.QUIC_INITIAL[family]:
                yield "quic_initial", True
            else:
                raise _OtherwiseError("another program")
        case _:
            raise _OtherwiseError(match.name)


def _tracked(match: _Extension) -> tuple[str, object]:
    looked_at, inverted = struct.unpack_from("=HH", match.data, _XT_CONNTRACK_FLAGS)
    if looked_at == _CT_DIRECTION:
        return "direction", ConntrackDirection.REPLY if inverted & _CT_DIRECTION else ConntrackDirection.ORIGINAL
    if looked_at != _CT_ORIGINAL_PORT or inverted or match.revision < 3:
        raise _OtherwiseError("other criteria")
    first, last = (struct.unpack_from("=H", match.data, at)[0] for at in _XT_CONNTRACK_PORT)
    return "original_port", PortRange(first, last)


def _owner(data: bytes) -> tuple[str, int | bool]:
    first_user, last_user, first_group, last_group, looked_at, inverted = _XT_OWNER.unpack_from(data)
    if looked_at == inverted == _OWNER_SOCKET:
        return "ownerless", True
    if inverted or first_user != last_user or first_group != last_group:
        raise _OtherwiseError("other owners")
    if looked_at not in (_OWNER_USER, _OWNER_GROUP):
        raise _OtherwiseError("other criteria")
    return ("user", first_user) if looked_at == _OWNER_USER else ("group", first_group)


def _program(match: _Extension) -> Iterator[Instruction]:
    head = _XT_BPF[match.revision]
    if match.revision == 0:
        count, _ = head.unpack_from(match.data)
    else:
        mode, count, _ = head.unpack_from(match.data)
        if mode:
            raise _OtherwiseError("a program from elsewhere")
    for number in range(count):
        yield _SOCK_FILTER.unpack_from(match.data, head.size + number * _SOCK_FILTER.size)


def _single_port(ports: list[int]) -> Iterator[tuple[str, object]]:
    for key, (first, last) in (("source_ports", ports[:2]), ("ports", ports[2:])):
        if (first, last) != _ANY_PORT:
            yield key, (PortRange(first, last),)


def _port_ranges(data: bytes) -> tuple[str, tuple[PortRange, ...]]:
    kind, count, *rest, inverted = _XT_MULTIPORT.unpack_from(data)
    if kind not in (_SOURCE_PORTS, _DESTINATION_PORTS) or inverted:
        raise _OtherwiseError("other ports")
    return "ports" if kind == _DESTINATION_PORTS else "source_ports", tuple(_ranges(count, rest))


def _ranges(count: int, rest: list[int]) -> Iterator[PortRange]:
    ports = iter(zip(rest[:count], rest[15 : 15 + count], strict=True))
    for port, begins_range in ports:
        last, _ = next(ports, (None, 0)) if begins_range else (port, 0)
        if last is None:
            raise _OtherwiseError("a range without end")
        yield PortRange(port, last)


def _action(entry: bytes, family: Family, target: str, *, goto: bool) -> Action:
    at = target_offset(entry, family)
    _, name, revision = _EXTENSION.unpack_from(entry, at)
    data = entry[at + _EXTENSION.size :]
    if goto and not target.startswith(CHAIN_PREFIX):
        raise _OtherwiseError("a jump elsewhere")
    match (_text(name), revision):
        case "", 0 if target == "RETURN":
            return Return()
        case "", 0 if target == "DROP":
            return Drop()
        case "", 0 if target.startswith(CHAIN_PREFIX):
            return Goto(target) if goto else Jump(target)
        case "MARK", 2:
            value, mask = _XT_MARK_SET.unpack_from(data)
            return SetMark(Mark(value, mask))
        case "CLASSIFY", 0 if _XT_CLASSIFY.unpack_from(data) == (0,):
            return ResetPriority()
        case "CONNMARK", 1 | 2:
            value, mask, packet_mask, mode = _XT_CONNMARK_SET[revision].unpack_from(data)
            if mode == _SET:
                return SetConnmark(Mark(value, mask))
            if mode not in (_SAVE, _RESTORE) or mask != packet_mask:
                raise _OtherwiseError("other ways of saving or restoring")
            return SaveMark(mask) if mode == _SAVE else RestoreMark(mask)
        case "NFQUEUE", 3:
            number, count, flags = _XT_NFQUEUE.unpack_from(data)
            if count != 1 or flags & ~_BYPASS:
                raise _OtherwiseError("several queues, or one for each processor")
            return Nfqueue(number, bypass=bool(flags))
        case "TPROXY", 1:
            mask, value, address, port = _XT_TPROXY.unpack_from(data)
            packed = address[:4] if family is Family.V4 else address
            return Tproxy(ipaddress.ip_address(packed), int.from_bytes(port, "big"), Mark(value, mask))
    raise _OtherwiseError(target)
