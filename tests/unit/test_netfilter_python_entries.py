"""The kernel's binary rules, read back: what Podlane writes, and what it does not."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from datapath.netfilter import packet_filters
from datapath.netfilter.packet_filters import CARRIES_DATA
from datapath.netfilter.parse import parse_rule
from datapath.netfilter.python_iptables.xt_decode import ENTRY_SIZE, decode
from datapath.netfilter.rules import (
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
from traffic_policy.marks import DIVERT, UNDECIDED, Mark
from traffic_policy.policy import PortRange, TransportProtocol

V4, V6 = Family.V4, Family.V6
TCP, UDP, ICMP = TransportProtocol.TCP, TransportProtocol.UDP, TransportProtocol.ICMP
ACCEPT = -2
"""NF_ACCEPT as a verdict in a table: -NF_ACCEPT - 1."""


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def extension(name: str, revision: int, data: bytes) -> bytes:
    body = padded(data)
    return struct.pack("=H29sB", 32 + len(body), name.encode(), revision) + body


def entry(
    family: Family,
    *matches: bytes,
    target: bytes | None = None,
    source: str = "",
    destination: str = "",
    inputs: tuple[bytes, bytes] = (b"", b""),
    outputs: tuple[bytes, bytes] = (b"", b""),
    protocol: int = 0,
    flags: int = 0,
    inverted: int = 0,
) -> bytes:
    """struct ipt_entry or ip6t_entry with all that follows it, as a machine of this byte order has it."""
    target = target if target is not None else extension("", 0, struct.pack("=i", ACCEPT))
    size = 4 if family is V4 else 16

    def ends(text: str) -> tuple[bytes, bytes]:
        if not text:
            return bytes(size), bytes(size)
        address, _, mask = text.partition("/")
        return ipaddress.ip_address(address).packed, ipaddress.ip_address(mask).packed

    (src, src_mask), (dst, dst_mask) = ends(source), ends(destination)
    head = src + dst + src_mask + dst_mask
    names = struct.pack("=16s16s16s16s", inputs[0], outputs[0], inputs[1], outputs[1])
    if family is V4:
        head += names + struct.pack("=HBBI", protocol, flags, inverted, 0)
    else:
        head += names + struct.pack("=HBBBxxxI", protocol, 0, flags, inverted, 0)
    at = ENTRY_SIZE[family] + sum(map(len, matches))
    head += struct.pack("=HHI", at, at + len(target), 0)
    return head.ljust(ENTRY_SIZE[family], b"\0") + b"".join(matches) + target


def tcp(sports: tuple[int, int] = (0, 65535), dports: tuple[int, int] = (0, 65535), *flags: int) -> bytes:
    option, mask, value, inverted = flags or (0, 0, 0, 0)
    return extension("tcp", 0, struct.pack("=HHHHBBBB", *sports, *dports, option, mask, value, inverted))


def multiport(*ports: int, ranges: tuple[int, ...] = (), kind: int = 1, inverted: int = 0) -> bytes:
    listed = [*ports, *[0] * (15 - len(ports))]
    begins = [int(i in ranges) for i in range(15)]
    return extension("multiport", 1, struct.pack("=BB15H15BB", kind, len(ports), *listed, *begins, inverted))


def conntrack(looked_at: int, inverted: int, *, ports: tuple[int, int] = (0, 0), revision: int = 3) -> bytes:
    first, last = ports
    flags = struct.pack("=HH", looked_at, inverted)
    return extension(
        "conntrack",
        revision,
        bytes(140) + struct.pack("=H", first) + bytes(4) + flags + bytes(6) + struct.pack("=H", last) + bytes(6),
    )


def owner(users: tuple[int, int], groups: tuple[int, int], looked_at: int, inverted: int = 0) -> bytes:
    return extension("owner", 1, struct.pack("=IIIIBB", *users, *groups, looked_at, inverted))


def mark(name: str, value: int, mask: int, inverted: int = 0, revision: int = 1) -> bytes:
    return extension(name, revision, struct.pack("=IIB", value, mask, inverted))


def connmark_target(mode: int, revision: int = 2, packet_mask: int = 0xFFFFFFFF) -> bytes:
    shift = b"\0\0" if revision == 2 else b""
    return extension("CONNMARK", revision, struct.pack("=III", 0, 0x3000, packet_mask) + shift + bytes([mode]))


def bpf(program: tuple[tuple[int, int, int, int], ...], revision: int = 1, mode: int = 0) -> bytes:
    head = struct.pack("=HHi", mode, len(program), 0) if revision else struct.pack("=HH", len(program), 0)
    instructions = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    return extension("bpf", revision, head + instructions.ljust(512, b"\0") + bytes(8))


LO = (b"lo", b"\xff\xff\xff")
SYN = tcp((0, 65535), (0, 65535), 0, 0x17, 0x02, 0)

OURS: dict[str, tuple[bytes, Family, str, Rule]] = {
    "no criterion": (entry(V4), V4, "RETURN", Rule(Return())),
    "jump": (entry(V6), V6, "PODLANE-OUT", Rule(Jump("PODLANE-OUT"))),
    "IPv4 goto": (entry(V4, flags=2), V4, "PODLANE-C1", Rule(Goto("PODLANE-C1"))),
    "IPv6 goto": (entry(V6, flags=4), V6, "PODLANE-C1", Rule(Goto("PODLANE-C1"))),
    "IPv4 networks": (
        entry(V4, source="10.0.0.0/255.128.0.0", destination="192.0.2.1/255.255.255.255"),
        V4,
        "RETURN",
        Rule(Return(), source=ipaddress.ip_network("10.0.0.0/9"), destination=ipaddress.ip_network("192.0.2.1/32")),
    ),
    "IPv6 network": (
        entry(V6, destination="fe80::/ffc0::"),
        V6,
        "RETURN",
        Rule(Return(), destination=ipaddress.ip_network("fe80::/10")),
    ),
    "interface in": (entry(V4, inputs=LO), V4, "RETURN", Rule(Return(), in_interface="lo")),
    "interface out": (entry(V6, outputs=LO), V6, "RETURN", Rule(Return(), out_interface="lo")),
    "not that interface": (entry(V4, outputs=LO, inverted=2), V4, "RETURN", Rule(Return(), not_out_interface="lo")),
    "the longest name": (
        entry(V4, outputs=(b"abcdefghijklmno", b"\xff" * 16)),
        V4,
        "RETURN",
        Rule(Return(), out_interface="abcdefghijklmno"),
    ),
    "IPv4 ICMP": (entry(V4, protocol=1), V4, "RETURN", Rule(Return(), protocol=ICMP)),
    "IPv6 ICMP": (entry(V6, protocol=58, flags=1), V6, "RETURN", Rule(Return(), protocol=ICMP)),
    "IPv6 does not look at it": (entry(V6, protocol=58), V6, "RETURN", Rule(Return())),
    "one port": (
        entry(V4, tcp(dports=(80, 80)), protocol=6),
        V4,
        "RETURN",
        Rule(Return(), protocol=TCP, ports=(PortRange(80, 80),)),
    ),
    "one range of UDP": (
        entry(V4, extension("udp", 0, struct.pack("=HHHHB", 0, 65535, 80, 90, 0)), protocol=17),
        V4,
        "RETURN",
        Rule(Return(), protocol=UDP, ports=(PortRange(80, 90),)),
    ),
    "SYN and ports": (
        entry(V4, SYN, multiport(80, 8000, 8100, ranges=(1,)), protocol=6),
        V4,
        "RETURN",
        Rule(Return(), protocol=TCP, syn=True, ports=(PortRange(80, 80), PortRange(8000, 8100))),
    ),
    "one source port": (
        entry(V4, tcp((22, 22), (80, 80)), protocol=6),
        V4,
        "RETURN",
        Rule(Return(), protocol=TCP, source_ports=(PortRange(22, 22),), ports=(PortRange(80, 80),)),
    ),
    "source ports": (
        entry(V4, multiport(500, 600, 4500, ranges=(0,), kind=0), protocol=6),
        V4,
        "RETURN",
        Rule(Return(), protocol=TCP, source_ports=(PortRange(500, 600), PortRange(4500, 4500))),
    ),
    "to a program here": (
        entry(V4, extension("addrtype", 1, struct.pack("=HHI", 0, 4, 0)), extension("socket", 3, b"\2")),
        V4,
        "RETURN",
        Rule(Return(), to_here=True, has_socket=True),
    ),
    "marks": (
        entry(V4, mark("mark", 0x1000, 0x3000), mark("connmark", 0x2000, 0x2000)),
        V4,
        "RETURN",
        Rule(Return(), mark=DIVERT, connmark=Mark(0x2000, 0x2000)),
    ),
    "original": (entry(V4, conntrack(0x1000, 0)), V4, "RETURN", Rule(Return(), direction=ConntrackDirection.ORIGINAL)),
    "original port": (
        entry(V4, conntrack(0x200, 0, ports=(80, 80))),
        V4,
        "RETURN",
        Rule(Return(), original_port=PortRange(80, 80)),
    ),
    "original ports": (
        entry(V6, conntrack(0x200, 0, ports=(80, 90))),
        V6,
        "RETURN",
        Rule(Return(), original_port=PortRange(80, 90)),
    ),
    "user": (entry(V4, owner((2102, 2102), (0, 0), 1)), V4, "RETURN", Rule(Return(), user=2102)),
    "group": (entry(V4, owner((0, 0), (1337, 1337), 2)), V4, "RETURN", Rule(Return(), group=1337)),
    "no owner": (entry(V4, owner((0, 0), (0, 0), 4, 4)), V4, "RETURN", Rule(Return(), ownerless=True)),
    "CLASSIFY": (entry(V4, target=extension("CLASSIFY", 0, bytes(4))), V4, "CLASSIFY", Rule(ResetPriority())),
    "reply": (entry(V4, conntrack(0x1000, 0x1000)), V4, "RETURN", Rule(Return(), direction=ConntrackDirection.REPLY)),
    "MARK": (
        entry(V4, target=extension("MARK", 2, struct.pack("=II", 0x1000, 0x3000))),
        V4,
        "MARK",
        Rule(SetMark(DIVERT)),
    ),
    "CONNMARK of old kernels": (entry(V4, target=connmark_target(0, 1)), V4, "CONNMARK", Rule(SetConnmark(UNDECIDED))),
    "CONNMARK": (entry(V4, target=connmark_target(0, 2)), V4, "CONNMARK", Rule(SetConnmark(UNDECIDED))),
    "CONNMARK that saves": (entry(V4, target=connmark_target(1, 2, 0x3000)), V4, "CONNMARK", Rule(SaveMark(0x3000))),
    "CONNMARK that restores": (
        entry(V6, target=connmark_target(2, 2, 0x3000)),
        V6,
        "CONNMARK",
        Rule(RestoreMark(0x3000)),
    ),
    "NFQUEUE": (
        entry(V4, target=extension("NFQUEUE", 3, struct.pack("=HHH", 7, 1, 1))),
        V4,
        "NFQUEUE",
        Rule(Nfqueue(7)),
    ),
    "NFQUEUE without bypass": (
        entry(V4, target=extension("NFQUEUE", 3, struct.pack("=HHH", 7, 1, 0))),
        V4,
        "NFQUEUE",
        Rule(Nfqueue(7, bypass=False)),
    ),
    "IPv4 data": (
        entry(V4, bpf(CARRIES_DATA[V4]), protocol=6),
        V4,
        "RETURN",
        Rule(Return(), protocol=TCP, carries_data=True),
    ),
    "IPv6 data": (
        entry(V6, bpf(CARRIES_DATA[V6]), protocol=6, flags=1),
        V6,
        "RETURN",
        Rule(Return(), protocol=TCP, carries_data=True),
    ),
    "IPv4 QUIC": (
        entry(V4, bpf(packet_filters.QUIC_INITIAL[V4]), protocol=17),
        V4,
        "DROP",
        Rule(Drop(), protocol=UDP, quic_initial=True),
    ),
    "IPv6 QUIC": (
        entry(V6, bpf(packet_filters.QUIC_INITIAL[V6]), protocol=17, flags=1),
        V6,
        "PODLANE-QUIC",
        Rule(Jump("PODLANE-QUIC"), protocol=UDP, quic_initial=True),
    ),
    "data, by an old kernel": (
        entry(V4, bpf(CARRIES_DATA[V4], revision=0), protocol=6),
        V4,
        "RETURN",
        Rule(Return(), protocol=TCP, carries_data=True),
    ),
    "IPv4 TPROXY": (
        entry(V4, target=extension("TPROXY", 1, struct.pack("=II16s2s", 0x3000, 0x1000, b"\x7f\0\0\1", b"\x3a\xfd"))),
        V4,
        "TPROXY",
        Rule(Tproxy(ipaddress.ip_address("127.0.0.1"), 15101, DIVERT)),
    ),
    "IPv6 TPROXY": (
        entry(
            V6, target=extension("TPROXY", 1, struct.pack("=II16s2s", 0x3000, 0x1000, bytes(15) + b"\1", b"\x3a\xfd"))
        ),
        V6,
        "TPROXY",
        Rule(Tproxy(ipaddress.ip_address("::1"), 15101, DIVERT)),
    ),
}


@pytest.mark.parametrize(("raw", "family", "target", "rule"), OURS.values(), ids=OURS)
def test_what_we_write_is_read(raw: bytes, family: Family, target: str, rule: Rule) -> None:
    assert decode(raw, family, target) == rule


OTHERS: dict[str, tuple[bytes, Family, str]] = {
    "ACCEPT": (entry(V4), V4, "ACCEPT"),
    "falls through": (entry(V4), V4, ""),
    "another chain": (entry(V4), V4, "KUBE-FORWARD"),
    "goto another chain": (entry(V4, flags=2), V4, "KUBE-FORWARD"),
    "fragments": (entry(V4, flags=1), V4, "RETURN"),
    "traffic class": (entry(V6, flags=2), V6, "RETURN"),
    "not that source": (entry(V4, inverted=8, source="10.0.0.0/255.0.0.0"), V4, "RETURN"),
    "not that destination": (entry(V4, inverted=16, destination="10.0.0.0/255.0.0.0"), V4, "RETURN"),
    "not that interface in": (entry(V4, inverted=1, inputs=LO), V4, "RETURN"),
    "not any interface": (entry(V4, inverted=2), V4, "RETURN"),
    "not that protocol": (entry(V4, inverted=0x40, protocol=6), V4, "RETURN"),
    "a mask with holes": (entry(V4, destination="10.0.0.0/255.0.255.0"), V4, "RETURN"),
    "bits behind the mask": (entry(V4, destination="10.0.0.1/255.0.0.0"), V4, "RETURN"),
    "eth+": (entry(V4, inputs=(b"eth", b"\xff\xff\xff")), V4, "RETURN"),
    "one bit of each letter": (entry(V6, inputs=(b"lo", b"\1\1\1")), V6, "RETURN"),
    "SCTP": (entry(V4, protocol=132), V4, "RETURN"),
    "ICMP of the other family": (entry(V6, protocol=1, flags=1), V6, "RETURN"),
    "not that source port": (entry(V4, tcp((1, 2), (0, 65535), 0, 0, 0, 1), protocol=6), V4, "RETURN"),
    "broadcast": (entry(V4, extension("addrtype", 1, struct.pack("=HHI", 0, 8, 0))), V4, "RETURN"),
    "from here": (entry(V4, extension("addrtype", 1, struct.pack("=HHI", 4, 4, 0))), V4, "RETURN"),
    "not to here": (entry(V4, extension("addrtype", 1, struct.pack("=HHI", 0, 4, 2))), V4, "RETURN"),
    "a connected socket": (entry(V4, extension("socket", 3, b"\0")), V4, "RETURN"),
    "a transparent socket": (entry(V4, extension("socket", 3, b"\3")), V4, "RETURN"),
    "other TCP flags": (entry(V4, tcp((0, 65535), (0, 65535), 0, 0x3F, 0x02, 0), protocol=6), V4, "RETURN"),
    "not SYN": (entry(V4, tcp((0, 65535), (0, 65535), 0, 0x17, 0x02, 4), protocol=6), V4, "RETURN"),
    "TCP option": (entry(V4, tcp((0, 65535), (0, 65535), 8, 0, 0, 0), protocol=6), V4, "RETURN"),
    "either port": (entry(V4, multiport(1, 2, kind=2), protocol=6), V4, "RETURN"),
    "a range without end": (entry(V4, multiport(*range(1, 16), ranges=(14,)), protocol=6), V4, "RETURN"),
    "not those ports": (entry(V4, multiport(1, 2, inverted=1), protocol=6), V4, "RETURN"),
    "ports twice": (entry(V4, tcp(dports=(80, 80)), multiport(1, 2), protocol=6), V4, "RETURN"),
    "not that mark": (entry(V4, mark("mark", 1, 1, inverted=1)), V4, "RETURN"),
    "a mark outside its mask": (entry(V4, mark("mark", 2, 1)), V4, "RETURN"),
    "the first revision of mark": (entry(V4, mark("mark", 1, 1, revision=0)), V4, "RETURN"),
    "not that original port": (entry(V4, conntrack(0x200, 0x200, ports=(80, 80))), V4, "RETURN"),
    "original port of an older kernel": (entry(V4, conntrack(0x200, 0, ports=(80, 80), revision=2)), V4, "RETURN"),
    "original port and direction": (entry(V4, conntrack(0x1200, 0, ports=(80, 80))), V4, "RETURN"),
    "not that group": (entry(V4, owner((0, 0), (1337, 1337), 2, 2)), V4, "RETURN"),
    "some groups": (entry(V4, owner((0, 0), (1000, 1999), 2)), V4, "RETURN"),
    "user and group": (entry(V4, owner((1, 1), (1, 1), 3)), V4, "RETURN"),
    "connection state": (entry(V4, conntrack(1, 0)), V4, "RETURN"),
    "state and direction": (entry(V4, conntrack(0x1001, 0)), V4, "RETURN"),
    "comment": (entry(V4, extension("comment", 0, b"hello".ljust(256, b"\0"))), V4, "RETURN"),
    "restore-mark": (entry(V4, target=connmark_target(2)), V4, "CONNMARK"),
    "save-mark": (entry(V4, target=connmark_target(1)), V4, "CONNMARK"),
    "a queue for each processor": (
        entry(V4, target=extension("NFQUEUE", 3, struct.pack("=HHH", 7, 1, 3))),
        V4,
        "NFQUEUE",
    ),
    "several queues": (entry(V4, target=extension("NFQUEUE", 3, struct.pack("=HHH", 7, 2, 1))), V4, "NFQUEUE"),
    "the program of the other family": (entry(V4, bpf(CARRIES_DATA[V6]), protocol=6), V4, "RETURN"),
    "a pinned program": (entry(V4, bpf(CARRIES_DATA[V4], mode=1), protocol=6), V4, "RETURN"),
    "LOG": (entry(V4, target=extension("LOG", 0, bytes(32))), V4, "LOG"),
    "cut off": (entry(V4, extension("mark", 1, b"")), V4, "RETURN"),
}


@pytest.mark.parametrize(("raw", "family", "target"), OTHERS.values(), ids=OTHERS)
def test_what_we_do_not_write_is_a_text(raw: bytes, family: Family, target: str) -> None:
    shown = decode(raw, family, target)
    assert isinstance(shown, str)
    assert f" {target} (" in f" {shown}"


def test_the_text_of_a_foreign_rule_is_never_taken_for_one_of_ours() -> None:
    shown = decode(entry(V4, source="10.0.0.0/255.0.255.0"), V4, "PODLANE-OUT")
    assert shown == "-j PODLANE-OUT (with options that Podlane does not use)"
    assert parse_rule(shown, V4) == shown
