"""IPv4 and IPv6 headers, extension headers and fragments, as scapy makes them."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence

import pytest
from captured import Talk, flows
from first_bytes import hello, records, sni
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from datapath.protocols.packets import read_ip
from podlane.classify.fragments import Reassembler, Whole

HELLO = records(hello(sni(b"a.example.com")))
SEGMENT = TCP(sport=40_000, dport=443, flags="PA", seq=1001) / Raw(HELLO)
V6 = IPv6(src="fd00::2", dst="fd00::1")


def name_in(packets: Sequence[Packet | bytes]) -> str | None:
    found, _ = flows(packets)
    assert len(found) == 1
    return found[0].detection.sni if found[0].detection else None


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src="10.0.0.2", dst="10.0.0.1") / SEGMENT, id="IPv4"),
        pytest.param(
            IP(src="10.0.0.2", dst="10.0.0.1", options=IPOption(b"\x94\x04\0\0")) / SEGMENT, id="IPv4 options"
        ),
        pytest.param(IP(src="10.0.0.2", dst="10.0.0.1", flags="DF") / SEGMENT, id="IPv4, do not fragment"),
        pytest.param(V6 / SEGMENT, id="IPv6"),
        pytest.param(V6 / IPv6ExtHdrHopByHop() / SEGMENT, id="hop by hop"),
        pytest.param(V6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=["fd00::9"]) / SEGMENT, id="two headers"),
        pytest.param(V6 / IPv6ExtHdrFragment(id=7) / SEGMENT, id="atomic fragment"),
        pytest.param(V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(id=7) / IPv6ExtHdrDestOpt() / SEGMENT, id="three"),
        pytest.param(V6 / AH(nh=6, payloadlen=5, spi=1, icv=b"i" * 16) / SEGMENT, id="authentication header"),
    ],
)
def test_the_segment_is_found_behind_the_headers(packet: Packet) -> None:
    assert name_in([packet]) == "a.example.com"


@pytest.mark.parametrize("length", [pytest.param(0, id="left to the network card"), pytest.param(None, id="as it is")])
def test_a_length_of_zero_means_all_that_was_captured(length: int | None) -> None:
    assert name_in([IP(src="10.0.0.2", dst="10.0.0.1", len=length) / SEGMENT]) == "a.example.com"
    assert name_in([IPv6(src="fd00::2", dst="fd00::1", plen=length) / SEGMENT]) == "a.example.com"


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x45" + bytes(10), id="cut in the header"),
        pytest.param(b"\x42" + bytes(30), id="a header of 8 bytes"),
        pytest.param(bytes(IP(len=10) / UDP()), id="shorter than its header"),
        pytest.param(b"\x60" + bytes(20), id="IPv6, cut in the header"),
        pytest.param(bytes(V6 / IPv6ExtHdrHopByHop())[:41], id="cut in an extension header"),
        pytest.param(bytes(IPv6(nh=44) / Raw(b"\x06\0\0")), id="cut in a fragment header"),
        pytest.param(bytes(IPv6(nh=60) / Raw(b"\x06\xff" + bytes(20))), id="an extension longer than the packet"),
    ],
)
def test_headers_that_are_not_valid_are_left_out(packet: bytes) -> None:
    assert read_ip(packet, 0) is None
    found, table = flows([packet])
    assert (len(found), table.seen.broken) == (0, 1)


def test_other_protocols_are_counted() -> None:
    found, table = flows([IP() / ICMP(), IPv6(nh=59), IPv6() / IPv6ExtHdrHopByHop() / Raw(b"x")])
    assert (len(found), table.seen.other.total()) == (0, 3)


def test_packets_without_ports_are_counted_by_protocol_and_fragments_each() -> None:
    ping = fragment(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP() / Raw(bytes(3000)), 1480)
    assert len(ping) == 3
    _, table = flows([*ping, IP(proto=4) / IP() / SEGMENT, IP(proto=47) / Raw(bytes(40))])
    assert table.seen.other == {1: 3, 4: 1, 47: 1}


def big(version: int) -> tuple[Packet, list[Packet]]:
    """A TCP segment larger than a packet, and its fragments."""
    payload = TCP(sport=40_000, dport=443, flags="PA", seq=1001) / Raw(
        records(hello(sni(b"a.example.com"))) + bytes(4000)
    )
    if version == 4:
        packet = IP(src="10.0.0.2", dst="10.0.0.1", id=77) / payload
        return packet, fragment(packet, 104)
    packet = V6 / IPv6ExtHdrFragment(id=77) / IPv6ExtHdrDestOpt() / payload
    return packet, fragment6(packet, 1280)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled", "twice"])
def test_fragments_make_the_packet_in_any_order(version: int, order: str) -> None:
    _, pieces = big(version)
    count, size = len(pieces), sum(len(bytes(p)) for p in pieces)
    if order == "backwards":
        pieces.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(pieces)
    elif order == "twice":
        pieces = [p for p in pieces[:-1] for _ in range(2)] + pieces[-1:]
        count, size = len(pieces), sum(len(bytes(p)) for p in pieces)
    found, table = flows(pieces)
    assert found[0].detection is not None
    assert found[0].detection.sni == "a.example.com"
    assert (found[0].up.packets, found[0].up.bytes) == (count, size)
    assert table.seen.fragments_given_up == 0


def test_a_lost_fragment_leaves_the_packet_out_and_is_told() -> None:
    _, pieces = big(4)
    found, table = flows([*pieces[:3], *pieces[4:]])
    assert not found
    assert table.seen.fragments_given_up == 1


def test_fragments_that_are_not_valid_are_told_too() -> None:
    beyond, empty = a_fragment(b"x" * 16, 65_528), a_fragment(b"", 8)
    found, table = flows([beyond, empty])
    assert not found
    assert (table.seen.packets, table.seen.broken, table.seen.fragments_given_up) == (2, 2, 0)


def put_together(*fragments: Packet | bytes) -> Whole | None:
    """What the last of them makes whole."""
    reassembler, made = Reassembler(), None
    for packet in fragments:
        payload = read_ip(bytes(packet), 0)
        assert payload is not None
        made = reassembler.add(payload, len(packet))
    return made


def a_fragment(data: bytes, offset: int, *, more: bool = True) -> Packet:
    """Of a UDP datagram; ``offset`` in bytes."""
    flags = "MF" if more else ""
    return IP(src="10.0.0.2", dst="10.0.0.1", proto=17, id=5, flags=flags, frag=offset // 8) / Raw(data)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([(0, 32), (16, 48)], id="the later one ends later"),
        pytest.param([(16, 48), (0, 32)], id="the later one begins earlier"),
        pytest.param([(0, 8), (16, 24), (32, 48), (0, 40)], id="the later one fills gaps"),
    ],
)
def test_of_overlapping_fragments_the_first_bytes_count(order: list[tuple[int, int]]) -> None:
    whole = bytes(UDP(sport=5000, dport=53) / Raw(b"a" * 40))
    filled: set[int] = set()
    fragments = []
    for start, end in order:
        data = bytes(whole[at] if at not in filled else ord("b") for at in range(start, end))
        filled.update(range(start, end))
        fragments.append(a_fragment(data, start, more=end < 48))
    made = put_together(*fragments)
    assert made is not None
    assert made.payload.data == whole
    assert made.frames == len(order)


def test_overlapping_fragments_take_no_more_memory_than_one_datagram() -> None:
    reassembler = Reassembler()
    frames = [bytes(a_fragment(bytes(end), 0)) for end in range(60_000, 60_400, 8)]
    tracemalloc.start()
    try:
        for frame in frames:
            payload = read_ip(frame, 0)
            assert payload is not None
            assert reassembler.add(payload, len(frame)) is None
        del payload
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 300_000


def test_datagrams_in_the_making_are_bounded() -> None:
    reassembler = Reassembler(max_datagrams=10)
    for identification in range(100):
        payload = read_ip(bytes(IP(id=identification, flags="MF", proto=17) / Raw(bytes(16))), 0)
        assert payload is not None
        assert reassembler.add(payload, 36) is None
    assert reassembler.given_up == 90
    reassembler.finish()
    assert reassembler.given_up == 100


def test_a_fragment_that_was_captured_in_part_ends_the_bytes_there() -> None:
    packet = IP(src="10.0.0.2", dst="10.0.0.1", proto=17, id=5) / UDP(sport=5000, dport=53) / Raw(bytes(range(200)))
    pieces = [bytes(p) for p in fragment(packet, 104)]
    made = put_together(*(piece[:100] if index == 1 else piece for index, piece in enumerate(pieces)))
    assert made is not None
    assert made.payload.data == bytes(packet)[20:][: 104 + 80]
    assert made.payload.end == 208


def test_talk_over_ipv6_is_one_flow() -> None:
    talk = Talk(client="fd00::2", server="fd00::1").open()
    talk.up(HELLO)
    talk.down(b"x" * 100)
    found, _ = flows(talk.close().packets)
    assert len(found) == 1
    assert (found[0].up.packets, found[0].down.packets) == (5, 3)
