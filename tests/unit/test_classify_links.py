"""Where the IP packet begins, for frames that scapy made of every link layer."""

from __future__ import annotations

import pytest
from captured import Talk, flows
from first_bytes import hello, records, sni
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import HDLC, PPP, PPPoE
from scapy.packet import Packet, Raw

from podlane.classify.links import NOT_IP, ip_start, known

V4 = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=40000, dport=443)
V6 = IPv6(src="fd00::2", dst="fd00::1") / TCP(sport=40000, dport=443)
LABELS = bytes.fromhex("00064040 00065140")
"""Two MPLS labels, 100 and 101; the second one is the last."""
ETHER = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
FRAMES = [
    pytest.param(1, Ether(**ETHER) / V4, id="Ethernet"),
    pytest.param(1, Ether(**ETHER) / V6, id="Ethernet, IPv6"),
    pytest.param(1, Ether(**ETHER) / Dot1Q(vlan=5) / V4, id="VLAN"),
    pytest.param(1, Ether(**ETHER) / Dot1Q(vlan=5) / V6, id="VLAN, IPv6"),
    pytest.param(1, Ether(**ETHER) / Dot1AD(vlan=7) / Dot1Q(vlan=5) / V4, id="QinQ"),
    pytest.param(1, Ether(**ETHER, type=0x9100) / Dot1Q(vlan=7) / Dot1Q(vlan=5) / V4, id="QinQ by its old number"),
    pytest.param(1, Dot3(**ETHER) / LLC() / SNAP(code=0x0800) / V4, id="SNAP"),
    pytest.param(1, Dot3(**ETHER) / LLC() / SNAP(code=0x8100) / Dot1Q(vlan=5) / V6, id="SNAP, VLAN, IPv6"),
    pytest.param(1, Ether(**ETHER, type=0x8847) / Raw(LABELS) / V4, id="MPLS"),
    pytest.param(1, Ether(**ETHER) / Dot1Q(vlan=5, type=0x8848) / Raw(LABELS[4:]) / V6, id="MPLS in a VLAN, IPv6"),
    pytest.param(1, Ether(**ETHER) / PPPoE(sessionid=3) / PPP(proto=0x21) / V4, id="PPPoE"),
    pytest.param(
        1, Ether(**ETHER) / Dot1Q(vlan=7) / PPPoE(sessionid=3) / PPP(proto=0x57) / V6, id="PPPoE in a VLAN, IPv6"
    ),
    pytest.param(9, PPP(proto=0x21) / V4, id="PPP"),
    pytest.param(9, HDLC() / PPP(proto=0x57) / V6, id="PPP with address and control, IPv6"),
    pytest.param(9, Raw(b"\x21") / V4, id="PPP with a short protocol number"),
    pytest.param(50, HDLC() / PPP(proto=0x21) / V4, id="PPP in HDLC"),
    pytest.param(51, PPPoE(sessionid=3) / PPP(proto=0x21) / V4, id="PPPoE alone"),
    pytest.param(166, Raw(b"\x00\x03\x00\x21") / V4, id="PPP of pppd, received"),
    pytest.param(166, Raw(b"\x01\x03\x00\x57") / V6, id="PPP of pppd, sent, IPv6"),
    pytest.param(204, Raw(b"\x01\xff\x03\x00\x21") / V4, id="PPP with direction"),
    pytest.param(113, CookedLinux(proto=0x0800) / V4, id="Linux cooked v1"),
    pytest.param(113, CookedLinux(proto=0x86DD) / V6, id="Linux cooked v1, IPv6"),
    pytest.param(113, CookedLinux(proto=0x8100) / Dot1Q(vlan=5) / V4, id="Linux cooked v1, VLAN"),
    pytest.param(276, CookedLinuxV2(proto=0x0800) / V4, id="Linux cooked v2"),
    pytest.param(276, CookedLinuxV2(proto=0x86DD) / V6, id="Linux cooked v2, IPv6"),
    pytest.param(276, CookedLinuxV2(proto=0x8100) / Dot1Q(vlan=5) / V6, id="Linux cooked v2, VLAN"),
    pytest.param(0, Raw(b"\x02\0\0\0") / V4, id="BSD loopback, little-endian"),
    pytest.param(0, Raw(b"\0\0\0\x1e") / V6, id="BSD loopback, big-endian, IPv6"),
    pytest.param(108, Raw(b"\0\0\0\x02") / V4, id="OpenBSD loopback"),
    pytest.param(12, V4, id="raw IP by its old number"),
    pytest.param(101, V4, id="raw IP"),
    pytest.param(101, V6, id="raw IP, IPv6"),
    pytest.param(228, V4, id="raw IPv4"),
    pytest.param(229, V6, id="raw IPv6"),
]


@pytest.mark.parametrize(("link_type", "frame"), FRAMES)
def test_the_ip_packet_is_found(link_type: int, frame: Packet) -> None:
    data = bytes(frame)
    at = ip_start(link_type, data)
    assert data[at:] == bytes(V6 if data[at] >> 4 == 6 else V4)


@pytest.mark.parametrize(("link_type", "frame"), FRAMES)
def test_frames_cut_off_anywhere_do_no_harm(link_type: int, frame: Packet) -> None:
    data = bytes(frame)
    for size in range(len(data)):
        found, table = flows([data[:size]], link_type)
        assert not found or size >= ip_start(link_type, data) + 34, size
        assert table.seen.packets == 1


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        pytest.param(1, Ether(**ETHER) / ARP(), id="ARP"),
        pytest.param(1, Ether(**ETHER, type=0x8863) / Raw(bytes(40)), id="PPPoE discovery"),
        pytest.param(1, Dot3(**ETHER) / LLC(dsap=0x42, ssap=0x42) / Raw(bytes(40)), id="LLC of others"),
        pytest.param(1, Ether(**ETHER, type=0x8847) / Raw(LABELS) / Raw(bytes(40)), id="MPLS with a control word"),
        pytest.param(1, Ether(**ETHER, type=0x8847) / Raw(LABELS[:4] * 9), id="MPLS without a last label"),
        pytest.param(9, PPP(proto=0xC021) / Raw(bytes(40)), id="LCP"),
        pytest.param(113, CookedLinux(proto=0x0806) / ARP(), id="ARP, cooked v1"),
        pytest.param(276, CookedLinuxV2(proto=0x0806) / ARP(), id="ARP, cooked v2"),
        pytest.param(0, Raw(b"\x02\0\0\0\x10"), id="loopback, no IP version"),
        pytest.param(1, Raw(b""), id="nothing at all"),
    ],
)
def test_what_is_not_ip_is_left_out(link_type: int, frame: Packet) -> None:
    assert ip_start(link_type, bytes(frame)) == NOT_IP
    found, table = flows([frame], link_type)
    assert not found
    assert table.seen.not_ip == 1


def test_link_types_that_cannot_be_read_are_counted() -> None:
    assert not known(127)  # 802.11 with radiotap
    found, table = flows([b"abc", b"def"], 127)
    assert not found
    assert table.seen.unknown_links == {127: 2}


def test_padding_of_short_ethernet_frames_is_no_payload() -> None:
    talk = Talk().open()
    frames = [bytes(Ether(**ETHER) / p).ljust(60, b"\x16") for p in talk.packets]
    talk.packets.clear()
    found, _ = flows([*frames, Ether(**ETHER) / talk.up(records(hello(sni(b"a.example.com"))))], 1)
    assert [f.detection.sni for f in found if f.detection] == ["a.example.com"]
