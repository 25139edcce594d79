"""What a verdict writes back, and what the kernel is asked about a connection, against the kernel's headers."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, IPOption_LSRR
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw
from scapy.utils import checksum
from tcp_packets import flow_of, tcp_packet
from udp_packets import udp_packet

from datapath.protocols.packets import tcp_as_it_leaves
from datapath.protocols.streams import FirstBytes
from datapath.stepaside import queue_messages as nfq
from datapath.stepaside.tcp_sockets import TcpSockets, question
from tc_core.netlink import codec
from tc_core.netlink import netfilter as nf


def left_to_the_card(packet: Packet) -> tuple[bytes, bytes]:
    """A packet as the kernel shows it, with the pseudo header's sum in the checksum's place; and as it should be."""
    whole = bytes(packet)
    at = len(whole) - len(packet[TCP])
    right = int.from_bytes(whole[at + 16 : at + 18], "big")
    segment = whole[at : at + 16] + bytes(2) + whole[at + 18 :]
    # The sum of all is the complement of the checksum: what the segment does not add is the pseudo header.
    pseudo = ((0xFFFF - right) - (0xFFFF - checksum(segment))) % 0xFFFF
    return whole[: at + 16] + pseudo.to_bytes(2, "big") + whole[at + 18 :], whole


@pytest.mark.parametrize("text", [b"", b"x", b"GET / HTTP/1.1\r\n", bytes(range(256)) * 200])
@pytest.mark.parametrize(
    "below",
    [
        pytest.param(IP(src="192.0.2.1", dst="192.0.2.2"), id="IPv4"),
        pytest.param(
            IP(src="192.0.2.1", dst="192.0.2.2", options=[IPOption_LSRR(routers=["192.0.2.3"])]), id="options"
        ),
        pytest.param(IPv6(src="2001:db8::1", dst="2001:db8::2"), id="IPv6"),
        pytest.param(IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt(), id="extension"),
    ],
)
def test_the_checksum_is_completed(below: Packet, text: bytes) -> None:
    shown, right = left_to_the_card(below / TCP(sport=4000, dport=80, flags="PA") / Raw(text))
    assert tcp_as_it_leaves(shown, unsummed=True) == tcp_as_it_leaves(right, unsummed=False) == right


@given(st.binary(max_size=100))
def test_what_is_no_tcp_is_left_alone(data: bytes) -> None:
    for unsummed in (False, True):
        assert tcp_as_it_leaves(udp_packet(data), unsummed=unsummed) is None
        tcp_as_it_leaves(data, unsummed=unsummed)


def test_a_verdict_with_bytes() -> None:
    ticket = (9).to_bytes(4, "big")
    marked = nfq.Verdicts(3).accept_marked(ticket, 7)
    verdict = nfq.Verdicts(3).accept_as_read(ticket, 7, b"packet")
    assert verdict == struct.pack("=I", len(marked) + 12) + marked[4:] + struct.pack("=HH", 10, 10) + b"packet\0\0"


@pytest.mark.parametrize(
    ("extra", "whole", "unsummed"),
    [
        (b"", True, False),
        (codec.attribute(14, struct.pack(">I", 1)), True, True),
        (codec.attribute(14, struct.pack(">I", 2)), True, False),
        (codec.attribute(13, struct.pack(">I", 70_000)), False, False),
    ],
    ids=["plain", "no checksum", "segments", "cut off"],
)
def test_what_the_kernel_says_of_a_packet(extra: bytes, whole: bool, unsummed: bool) -> None:
    head = codec.attribute(1, struct.pack(">IHB", 5, 0x0800, 3))
    data = nf.message(nfq.PACKET, head + extra + codec.attribute(10, b"x"), family=2, resource=3)
    (packet,) = nfq.read_packets(bytearray(data), len(data))
    assert (packet.data, packet.whole, packet.unsummed) == (b"x", whole, unsummed)


@pytest.mark.parametrize("v6", [False, True])
def test_a_question_is_what_the_header_file_says(v6: bool) -> None:
    flow = flow_of(tcp_packet(b"", v6=v6))
    size = 16 if v6 else 4
    ends = [flow[:size], flow[size : 2 * size]]
    request = question(flow, 2)
    assert request[:8] == struct.pack("=IHH", 72, 20, 1)
    assert request[16:24] == struct.pack("=BBBBI", 10 if v6 else 2, 6, 2, 0, 0xFFFFFFFF)
    assert request[24:28] == struct.pack(">HH", 40000, 443)
    assert request[28:60] == b"".join(end.ljust(16, b"\0") for end in ends)
    assert request[60:] == bytes(4) + b"\xff" * 8


def ends_of(client: socket.socket) -> bytes:
    packed = [socket.inet_aton(name[0]) for name in (client.getsockname(), client.getpeername())]
    return b"".join(packed) + struct.pack(">HH", client.getsockname()[1], client.getpeername()[1])


def test_the_kernel_tells_of_both_ends() -> None:
    sockets = TcpSockets()
    sockets.open()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            flow = ends_of(client)
            assert (sockets.unacknowledged(flow), sockets.received(flow)) == (0, 0)
            client.sendall(b"12345")
            assert accepted.recv(5) == b"12345"
            assert (sockets.unacknowledged(flow), sockets.received(flow)) == (0, 5)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            client.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    client.send(bytes(1 << 16))
            waiting = sockets.unacknowledged(flow)
            assert waiting is not None
            assert waiting > 1 << 16
            shy = TcpSockets(may_wait=False)
            shy.open()
            assert (shy.received(flow), shy.unacknowledged(flow)) == (None, waiting)
            shy.close()
        unknown = flow[:-4] + b"\0\1" + flow[-2:]
        assert (sockets.unacknowledged(unknown), sockets.received(unknown)) == (None, None), "not the listener's either"
    sockets.close()
    assert sockets.unacknowledged(flow) is None


@pytest.mark.parametrize(
    ("pieces", "contradicted"),
    [
        ([(0, b"abc"), (0, b"abc")], False),
        ([(0, b"abc"), (0, b"abcd"), (2, b"cde")], False),
        ([(0, b"abc"), (1, b"x")], True),
        ([(0, b"abc"), (2, b"xd")], True),
        ([(0, b"ab"), (4, b"ef"), (4, b"ef")], False),
        ([(0, b"ab"), (4, b"ef"), (5, b"x")], True),
        ([(0, b"ab"), (4, b"ef"), (3, b"dx")], True),
        ([(0, b"ab"), (4, b"ef"), (2, b"cdef")], False),
        ([(0, b"ab"), (4, b"ef"), (2, b"cdex")], True),
        ([(0, b"ab"), (-1, b"x")], False),
        ([(0, b"ab"), (-2, b"xy")], True),
        ([(0, b"ab"), (-1, b"xab")], False),
        ([(0, b"ab"), (-1, b"xac")], True),
    ],
)
@pytest.mark.parametrize("base", [1000, 2**32 - 3])
def test_other_bytes_in_the_same_place_are_noticed(
    pieces: list[tuple[int, bytes]], contradicted: bool, base: int
) -> None:
    stream = FirstBytes(base)
    for at, data in pieces:
        stream.take((base + at) % 2**32, data)
    assert stream.contradicted == contradicted
