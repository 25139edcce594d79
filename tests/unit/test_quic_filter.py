"""Which UDP packets the kernel takes for the beginning of a QUIC connection: its program, run on real ones."""

from __future__ import annotations

import pytest
from bpf_machine import check
from hypothesis import given, settings
from quic_datagrams import HELLO, crypto, initial, long_packet, odd_datagrams
from test_ruleset_aside import selects
from udp_packets import udp_packet

from datapath.netfilter.packet_filters import QUIC_INITIAL
from datapath.netfilter.rules import Family
from datapath.protocols.quic_packets import MIN_DATAGRAM, VERSION_1, VERSION_2, PacketType, begins_with

OTHER = 0x0A1A2A3A
"""A version that is reserved to be refused (RFC 9000 15)."""
FRAMES = crypto(0, HELLO[:800])


def begins(datagram: bytes, family: Family = Family.V4) -> bool:
    return selects(QUIC_INITIAL, udp_packet(datagram, v6=family is Family.V6), family)


@pytest.mark.parametrize("family", Family, ids=str)
@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        pytest.param(initial(FRAMES), True, id="version 1"),
        pytest.param(initial(FRAMES, version=VERSION_2), True, id="version 2"),
        pytest.param(initial(FRAMES, token=b"t" * 40), True, id="with a token"),
        pytest.param(initial(FRAMES)[:-1], False, id="too small"),
        pytest.param(initial(FRAMES, kind=PacketType.HANDSHAKE), True, id="Handshake"),
        pytest.param(initial(FRAMES, kind=PacketType.ZERO_RTT), True, id="0-RTT"),
        pytest.param(initial(FRAMES, version=VERSION_2, kind=PacketType.HANDSHAKE), True, id="Handshake of version 2"),
        pytest.param(b"\xd0" + OTHER.to_bytes(4, "big") + bytes(1400), True, id="a version that is not known"),
        pytest.param(b"\xc0" + bytes(1400), False, id="Version Negotiation"),
        pytest.param(b"\x40" + bytes(1400), False, id="a short header"),
        pytest.param(b"\x80\0\0\0\x01" + bytes(1400), False, id="another protocol"),
        pytest.param(initial(FRAMES) * 9, True, id="several datagrams in one"),
        pytest.param(b"", False, id="nothing"),
    ],
)
def test_what_begins_a_connection_is_told_from_the_rest(datagram: bytes, expected: bool, family: Family) -> None:
    check(QUIC_INITIAL[family])
    assert begins(datagram, family) is expected


@settings(max_examples=50)
@given(odd_datagrams())
def test_nothing_is_missed_that_a_reader_would_begin_with(datagram: bytes) -> None:
    if begins_with(datagram) is not None and len(datagram) >= MIN_DATAGRAM and datagram[0] & 0x40:
        assert begins(datagram)
        assert begins(datagram, Family.V6)


def test_options_and_other_protocols() -> None:
    packet = udp_packet(initial(FRAMES))
    longer = bytes([0x46]) + packet[1:20] + bytes(4) + packet[20:]
    assert selects(QUIC_INITIAL, longer, Family.V4)
    six = udp_packet(initial(FRAMES), v6=True)
    assert not selects(QUIC_INITIAL, six[:6] + b"\x3c" + six[7:], Family.V6), "with an extension header"
    assert long_packet(FRAMES)[0] & 0xC0 == 0xC0
    assert begins_with(initial(FRAMES)) == (VERSION_1, bytes.fromhex("8394c8f03e515708"))
