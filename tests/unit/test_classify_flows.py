"""Flows: who is the client, what it said, what went each way; tuples used again, middles of connections, bounds."""

from __future__ import annotations

import random

import pytest
from captured import ETHERNET, Talk, ethernet, flows
from first_bytes import alpn, hello, records, sni
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from datapath.protocols.detect import Protocol, Reason
from podlane.classify.flow import Flow
from podlane.classify.flows import is_quic

HELLO = records(hello(sni(b"a.example.com"), alpn(b"h2")))
REQUEST = b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n"
SERVER_HELLO = b"\x16\x03\x03\x00\x5a\x02\x00\x00\x56\x03\x03" + bytes(84)
INITIAL = bytes.fromhex("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11")
"""The protected header of RFC 9001 A.2 and some of its payload."""


def ends(flow: Flow) -> tuple[int, int]:
    """The client's and the server's port."""
    _, sport, _, dport = flow.ends()
    return sport, dport


def conversation(first: bytes, answer: bytes = b"answer") -> Talk:
    talk = Talk().open()
    talk.up(first, "PA")
    talk.down(answer, "PA")
    return talk.close()


def udp(sport: int, dport: int, data: bytes = b"x", source: str = "10.0.0.2", destination: str = "10.0.0.1") -> Packet:
    return IP(src=source, dst=destination) / UDP(sport=sport, dport=dport) / Raw(data)


def test_a_whole_conversation() -> None:
    talk = conversation(HELLO)
    found, table = flows([ethernet(p) for p in talk.packets], ETHERNET)
    (flow,) = found
    assert ends(flow) == (40_000, 443)
    assert flow.whole
    assert flow.detection is not None
    assert (flow.detection.sni, flow.detection.alpn) == ("a.example.com", ("h2",))
    up = [p for p in talk.packets if p[IP].src == talk.client]
    down = [p for p in talk.packets if p[IP].src == talk.server]
    assert (flow.up.packets, flow.up.bytes) == (len(up), sum(len(ethernet(p)) for p in up))
    assert (flow.down.packets, flow.down.bytes) == (len(down), sum(len(ethernet(p)) for p in down))
    assert (table.seen.packets, table.seen.in_the_middle) == (8, 0)


@pytest.mark.parametrize("order", ["SYN-ACK first", "ACK first", "all twice"])
def test_the_syn_tells_the_client_in_any_order(order: str) -> None:
    # Port 80 talks to port 50000: only the flags can tell which is the server.
    talk = Talk(sport=80, dport=50_000).open()
    talk.up(REQUEST)
    packets = talk.packets
    if order == "SYN-ACK first":
        packets = [packets[1], packets[0], *packets[2:]]
    elif order == "ACK first":
        packets = [packets[2], packets[0], packets[1], packets[3]]
    else:
        packets = packets * 2
    found, _ = flows(packets)
    assert [ends(f) for f in found] == [(80, 50_000)]
    assert found[0].detection is not None
    assert found[0].detection.host == "b.example.com"


def test_the_syn_ack_alone_tells_the_client_and_where_it_begins() -> None:
    talk = conversation(HELLO)
    found, table = flows(talk.packets[1:])
    assert [ends(f) for f in found] == [(40_000, 443)]
    assert found[0].whole
    assert table.seen.in_the_middle == 0


@pytest.mark.parametrize("seed", range(5))
def test_segments_of_a_hello_in_any_order(seed: int) -> None:
    talk = Talk().open()
    for start in range(0, len(HELLO), 7):
        talk.up(HELLO[start : start + 7])
    handshake, rest = talk.packets[:3], talk.packets[3:]
    random.Random(seed).shuffle(rest)
    found, _ = flows([*handshake, *rest, *rest])
    assert found[0].detection is not None
    assert found[0].detection.sni == "a.example.com"


def test_data_in_the_syn_is_the_beginning() -> None:
    """TCP Fast Open, RFC 7413."""
    packet = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=40_000, dport=80, flags="S", seq=1000) / Raw(REQUEST)
    found, _ = flows([packet])
    assert found[0].detection is not None
    assert found[0].detection.host == "b.example.com"


@pytest.mark.parametrize(
    ("first", "answer", "protocol"),
    [
        pytest.param(HELLO, SERVER_HELLO, Protocol.TLS, id="TLS"),
        pytest.param(REQUEST, b"HTTP/1.1 200 OK\r\n\r\n", Protocol.HTTP1, id="HTTP/1"),
    ],
)
@pytest.mark.parametrize("server_first", [False, True], ids=["client seen first", "server seen first"])
def test_without_a_syn_the_side_that_speaks_the_clients_protocol_is_the_client(
    first: bytes, answer: bytes, protocol: Protocol, server_first: bool
) -> None:
    talk = Talk(sport=80, dport=50_000)
    a, b = talk.up(first), talk.down(answer)
    found, table = flows([b, a] if server_first else [a, b])
    assert [ends(f) for f in found] == [(80, 50_000)]
    assert found[0].detection is not None
    assert found[0].detection.protocol is protocol
    assert table.seen.in_the_middle == 1


def test_a_later_request_names_the_host_when_the_capture_starts_in_a_body() -> None:
    talk = Talk(dport=80)
    talk.up(b"\0the rest of a body")
    talk.down(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    talk.up(REQUEST)
    found, _ = flows(talk.packets)
    assert found[0].detection is not None
    assert found[0].detection.host == "b.example.com"


def test_tls_seen_from_its_middle_on_is_still_tls() -> None:
    talk = Talk()
    talk.down(SERVER_HELLO)
    talk.up(b"\x17\x03\x03\x00\x10" + bytes(16))
    found, _ = flows(talk.packets)
    assert found[0].detection is not None
    assert found[0].detection.protocol is Protocol.TLS
    assert found[0].detection.sni is None
    assert ends(found[0]) == (40_000, 443)


@pytest.mark.parametrize(
    ("source", "destination", "client"),
    [
        pytest.param(40_000, 443, 40_000, id="to a well-known port"),
        pytest.param(443, 40_000, 40_000, id="from a well-known port"),
        pytest.param(40_000, 50_000, 40_000, id="neither: seen first"),
        pytest.param(123, 53, 123, id="both: seen first"),
    ],
)
@pytest.mark.parametrize("transport", [TCP(flags="A"), UDP()], ids=["TCP", "UDP"])
def test_where_nothing_tells_the_ports_do(transport: Packet, source: int, destination: int, client: int) -> None:
    transport.sport, transport.dport = source, destination
    found, _ = flows([IP(dst="10.0.0.1") / transport / Raw(bytes(9))])
    assert ends(found[0])[0] == client


def test_a_tuple_used_again_is_another_flow() -> None:
    first, second = conversation(HELLO), Talk(client_next=777_000).open()
    second.up(REQUEST)
    found, _ = flows([*first.packets, *second.packets])
    assert [f.detection.protocol for f in found if f.detection] == [Protocol.TLS, Protocol.HTTP1]
    assert [f.up.packets for f in found] == [5, 3]


def test_a_tuple_used_again_without_an_end_is_another_flow_too() -> None:
    first, second = Talk().open(), Talk(client_next=777_000).open()
    found, _ = flows([*first.packets, *second.packets])
    assert [f.up.packets for f in found] == [2, 2]


def test_after_a_reset_roles_may_change() -> None:
    first = Talk(sport=5000, dport=6000).open()
    first.down(flags="R")
    second = Talk(client="10.0.0.1", server="10.0.0.2", sport=6000, dport=5000, client_next=5).open()
    found, _ = flows([*first.packets, *second.packets])
    assert [ends(f) for f in found] == [(5000, 6000), (6000, 5000)]


def test_a_repeated_syn_is_the_same_flow_and_so_is_what_comes_after_the_end() -> None:
    talk = conversation(HELLO)
    found, _ = flows([talk.packets[0], *talk.packets, talk.packets[-1]])
    assert len(found) == 1
    assert found[0].up.packets == 7


def test_both_sides_may_open_at_once() -> None:
    """Simultaneous open, RFC 9293 3.5: whose SYN was seen first counts as the client."""
    one = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=5000, dport=6000, flags="S", seq=1)
    two = IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=6000, dport=5000, flags="S", seq=9)
    found, _ = flows([one, two])
    assert [ends(f) for f in found] == [(5000, 6000)]


def test_a_socket_connected_to_itself_is_one_flow() -> None:
    found, _ = flows([IP(src="127.0.0.1", dst="127.0.0.1") / TCP(sport=5000, dport=5000, flags="S", seq=1)] * 3)
    assert len(found) == 1


def test_a_client_that_says_nothing_or_too_little() -> None:
    silent, short = Talk(sport=1).open().close(), Talk(sport=2).open()
    short.up(HELLO[:30])
    found, _ = flows([*silent.packets, *short.close().packets])
    assert found[0].detection is None
    assert found[1].detection is not None
    assert found[1].detection.reason is Reason.EOF


def test_a_lost_segment_is_a_gap() -> None:
    talk = Talk().open()
    talk.up(HELLO[:20])
    talk.up(HELLO[20:40])
    talk.up(HELLO[40:])
    del talk.packets[4]
    found, _ = flows(talk.packets)
    assert found[0].gap
    assert found[0].detection is not None
    assert found[0].detection.protocol is Protocol.TLS


def test_the_delay_counts_from_the_end_of_the_handshake() -> None:
    talk = Talk().open()
    talk.up(HELLO)
    found, _ = flows(talk.packets, seconds=2.0)
    assert found[0].delay == 2.0


@pytest.mark.parametrize(
    ("data", "quic"),
    [
        pytest.param(INITIAL, True, id="version 1"),
        pytest.param(b"\xd0\x6b\x33\x43\xcf" + INITIAL[5:], True, id="version 2"),
        pytest.param(b"\x40" + INITIAL[1:], False, id="a short header"),
        pytest.param(b"\x80" + INITIAL[1:], False, id="without the fixed bit"),
        pytest.param(b"\xc0\0\0\0\0" + INITIAL[5:], False, id="version negotiation"),
        pytest.param(b"\xc0\xff\0\0\x1d" + INITIAL[5:], True, id="a draft"),
        pytest.param(b"\xc0\xff\0\0\x1b" + INITIAL[5:], False, id="an older draft"),
        pytest.param(INITIAL[:5] + b"\x15" + bytes(40), False, id="a destination id of 21 bytes"),
        pytest.param(INITIAL[:5] + b"\0\x15" + bytes(40), False, id="a source id of 21 bytes"),
        pytest.param(INITIAL[:9], False, id="too short"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_quic_is_told_by_its_long_header(data: bytes, quic: bool) -> None:
    assert is_quic(data) is quic
    found, _ = flows([udp(40_000, 443, data)])
    assert found[0].quic is quic


def test_quic_is_looked_for_at_the_beginning_only() -> None:
    found, _ = flows([udp(40_000, 443)] * 8 + [udp(40_000, 443, INITIAL)])
    assert [f.quic for f in found] == [False]


def test_udp_counts_both_ways() -> None:
    found, _ = flows([udp(40_000, 53, bytes(30)), udp(53, 40_000, bytes(70), "10.0.0.1", "10.0.0.2")])
    assert [(f.up.packets, f.up.bytes, f.down.packets, f.down.bytes) for f in found] == [(1, 58, 1, 98)]


def test_packets_cut_off_before_their_flags_are_left_out_and_later_ones_counted() -> None:
    talk = Talk().open()
    syn, answer, last = (bytes(p) for p in talk.packets)
    found, table = flows([syn[:30], answer[:36], last[:40]])
    assert (len(found), table.seen.broken, table.seen.cut) == (1, 1, 2)
    found, table = flows([bytes(udp(1, 2))[:27]])
    assert (len(found), table.seen.broken) == (0, 1)


def test_too_many_flows_leave_early_the_ended_ones_first() -> None:
    ended = conversation(HELLO)
    packets = list(ended.packets)
    for port in range(1, 40):
        talk = Talk(sport=port).open()
        packets += talk.packets
    found, table = flows(packets, max_flows=20)
    assert len(found) == 40
    assert ends(found[0]) == (40_000, 443)
    assert table.seen.evicted > 0
    assert table.seen.evicted < 20


def test_bytes_held_are_bounded_by_judging_early() -> None:
    """Beginnings that never decide: the oldest must go, whatever they could still have said."""
    packets: list[Packet] = []
    for port in range(1, 60):
        talk = Talk(sport=port).open()
        talk.up(b"\x16\x03\x01\x40\0\x01\0\x3f\xfc" + bytes(1000))
        packets += talk.packets
    found, table = flows(packets, max_held=20_000)
    assert len(found) == 59
    assert table.seen.evicted >= 59 - 20
    assert table._held == 0


def test_flows_that_hold_nothing_stay_when_bytes_must_go() -> None:
    """However old they are: only those that hold some make room."""
    packets: list[Packet] = []
    for port in range(1, 60):
        packets += Talk(sport=port).open().packets
    first = Talk(sport=1_000).open()
    first.up(b"\x16\x03\x01\x40\0\x01\0\x3f\xfc" + bytes(1000))
    second = Talk(sport=1_001).open()
    second.up(b"\x16\x03\x01\x40\0\x01\0\x3f\xfc" + bytes(1000))
    found, table = flows([*packets, *first.packets, *second.packets], max_held=1_500)
    assert table.seen.evicted == 1
    assert ends(found[0]) == (1_000, 443)


def test_random_bytes_never_raise() -> None:
    rng = random.Random(7)
    frames = [rng.randbytes(rng.randrange(100)) for _ in range(1000)]
    frames += [b"\x45" + rng.randbytes(60) for _ in range(1000)] + [b"\x60" + rng.randbytes(80) for _ in range(1000)]
    # Valid headers with everything behind them at random: flags, offsets, options.
    frames += [bytes(IP(proto=6) / Raw(rng.randbytes(rng.randrange(14, 60)))) for _ in range(1000)]
    _, table = flows(frames)
    assert table.seen.packets == 4_000
