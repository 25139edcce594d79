"""The program that finds the class of what arrives by the socket, run by a machine of ours; tests/kernel has the kernel."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from ebpf_machine import Machine, Packet
from hypothesis import given
from hypothesis import strategies as st

from tc_core.bpf.ebpf_assembler import EbpfAssembler
from tc_core.bpf.socket_program import socket_program, socket_redirect
from traffic_policy.marks import OWN, class_mark

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP = 6, 17
THERE, HERE = "192.0.2.1", "10.0.0.7"
THERE6, HERE6 = "2001:db8::1", "fd00::7"
PORTS = struct.pack("!HH", 443, 40000)
REST = bytes(16)
KNOWN = frozenset({1, 2, 200})
OURS = OWN.value


def ipv4(protocol: int = TCP, *, options: bytes = b"", fragment: int = 0) -> Packet:
    size = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | size, 0, 60, 0, fragment, 64, protocol, 0)
    addresses = ipaddress.IPv4Address(THERE).packed + ipaddress.IPv4Address(HERE).packed
    return Packet(head + addresses + options + PORTS + REST, IPV4)


def ipv6(following: int = TCP) -> Packet:
    addresses = ipaddress.IPv6Address(THERE6).packed + ipaddress.IPv6Address(HERE6).packed
    return Packet(struct.pack("!IHBB", 6 << 28, 20, following, 64) + addresses + PORTS + REST, IPV6)


def handle(minor: int) -> int:
    return 1 << 16 | minor


TUPLE4 = ipaddress.IPv4Address(THERE).packed + ipaddress.IPv4Address(HERE).packed + PORTS
TUPLE6 = ipaddress.IPv6Address(THERE6).packed + ipaddress.IPv6Address(HERE6).packed + PORTS


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        pytest.param(ipv4(), TUPLE4, id="IPv4"),
        pytest.param(ipv4(options=bytes(40)), TUPLE4, id="IPv4 with options"),
        pytest.param(ipv4(fragment=0x4000), TUPLE4, id="not to be fragmented"),
        pytest.param(ipv6(), TUPLE6, id="IPv6"),
    ],
)
def test_the_socket_is_looked_up_by_the_packets_addresses_and_ports(packet: Packet, wanted: bytes) -> None:
    machine = Machine(socket_program(KNOWN), lambda _: class_mark(2).value | OURS)
    assert machine.run(packet) == -1
    assert machine.looked_up == [wanted]
    assert packet.priority == handle(0x102)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv4(UDP), id="UDP"),
        pytest.param(ipv4(fragment=0x2000), id="first fragment"),
        pytest.param(ipv4(fragment=0x0010), id="later fragment"),
        pytest.param(ipv6(UDP), id="UDP over IPv6"),
        pytest.param(ipv6(0), id="extension header"),
        pytest.param(Packet(bytes(60), ARP), id="ARP"),
        pytest.param(Packet(ipv4().network[:22], IPV4), id="cut before the ports"),
        pytest.param(Packet(b"", IPV4), id="empty"),
        pytest.param(Packet(ipv6().network[:43], IPV6), id="IPv6, cut in the ports"),
    ],
)
def test_no_socket_is_looked_up_for(packet: Packet) -> None:
    machine = Machine(socket_program(KNOWN), lambda _: class_mark(1).value | OURS)
    assert machine.run(packet) == -1
    assert (machine.looked_up, packet.priority) == ([], 0)


@pytest.mark.parametrize(
    ("mark", "priority"),
    [
        pytest.param(class_mark(1).value | OURS, handle(0x101), id="a class"),
        pytest.param(class_mark(200).value | OURS, handle(0x1C8), id="a class beyond 127"),
        pytest.param(class_mark(200).value | OURS | 0x00400055, handle(0x1C8), id="bits of others"),
        pytest.param(class_mark(3).value | OURS, handle(0x1FF), id="a class that limits nothing"),
        pytest.param(class_mark(255).value | OURS, handle(0x1FF), id="the default class"),
        pytest.param(OURS, 0, id="ours, not decided yet"),
        pytest.param(class_mark(1).value, 0, id="a program's own mark"),
        pytest.param(0, 0, id="no mark"),
        pytest.param(None, 0, id="no socket"),
    ],
)
def test_the_mark_of_the_socket_is_the_class(mark: int | None, priority: int) -> None:
    packet = ipv4()
    assert Machine(socket_program(KNOWN), lambda _: mark).run(packet) == -1
    assert packet.priority == priority


@given(st.frozensets(st.integers(1, 254)), st.integers(0, 0xFFFFFFFF), st.booleans())
def test_for_every_set_of_classes_and_every_mark(ids: frozenset[int], mark: int, v6: bool) -> None:
    packet = ipv6() if v6 else ipv4()
    assert Machine(socket_program(ids), lambda _: mark).run(packet) == -1
    found = mark >> 24
    decided = found and mark & OURS
    assert packet.priority == (handle(0x100 | found) if decided and found in ids else handle(0x1FF) if decided else 0)


@given(st.binary(max_size=120), st.sampled_from([IPV4, IPV6, ARP]))
def test_garbage_is_redirected_like_all_else(data: bytes, protocol: int) -> None:
    assert Machine(socket_program(KNOWN), lambda _: None).run(Packet(data, protocol)) == -1


def test_programs_are_told_apart_by_name_and_cannot_be_too_long() -> None:
    one, other = (socket_redirect("ifb-eth0", frozenset(ids)) for ids in ({1}, {1, 2}))
    assert one != other
    assert one.program.startswith("podlane-")
    assert len(socket_program(frozenset(range(1, 255)))) // 8 < 4096, "BPF_MAXINSNS, for those without CAP_BPF"


def test_a_label_that_is_nowhere_is_an_error() -> None:
    code = EbpfAssembler()
    code.goto("nowhere")
    with pytest.raises(KeyError):
        code.assemble()
