"""The bytes of nfnetlink, against what the kernel's headers say, and back."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from datapath.stepaside import conntrack_messages as ct
from datapath.stepaside import queue_messages as nfq
from tc_core.netlink import codec
from tc_core.netlink import netfilter as nf
from traffic_policy.marks import Mark
from traffic_policy.policy import TransportProtocol

PRE_ROUTING, LOCAL_OUT = 0, 3
"""linux/netfilter.h"""


def packet_message(payload: bytes, mark: int | None, ticket: int = 5, queue: int = 3, hook: int = LOCAL_OUT) -> bytes:
    """What the kernel sends: the packet's head, interface, perhaps the mark, a timestamp, the payload."""
    attributes = codec.attribute(1, struct.pack(">IHB", ticket, 0x0800, hook)) + codec.attribute(
        5, struct.pack(">I", 2)
    )
    if mark is not None:
        attributes += codec.attribute(3, struct.pack(">I", mark))
    attributes += codec.attribute(4, bytes(16)) + codec.attribute(10, payload)
    return nf.message(nfq.PACKET, attributes, family=2, resource=queue)


packets = st.tuples(
    st.binary(max_size=70), st.none() | st.integers(0, 2**32 - 1), st.sampled_from([PRE_ROUTING, LOCAL_OUT])
)


@given(st.lists(packets, max_size=4))
def test_packets_are_read_as_they_were_sent(sent: list[tuple[bytes, int | None, int]]) -> None:
    data = b"".join(
        packet_message(payload, mark, number, hook=hook) for number, (payload, mark, hook) in enumerate(sent)
    )
    other = nf.message(codec.NLMSG_ERROR, bytes(20))
    assert nfq.read_packets(bytearray(other + data + other), len(data) + 2 * len(other)) == [
        nfq.QueuedPacket(number.to_bytes(4, "big"), mark or 0, payload, hook == PRE_ROUTING)
        for number, (payload, mark, hook) in enumerate(sent)
    ]


@given(st.binary(max_size=100))
def test_no_bytes_make_the_readers_raise(data: bytes) -> None:
    nfq.read_packets(bytearray(data), len(data))
    nfq.read_packets(bytearray(nf.message(nfq.PACKET, data)), len(data) + nf.HEAD)
    for message in codec.read_messages(data, len(data)):
        ct.read_entry(data, message.start + nf.NFGENMSG_SIZE, message.end)
        list(codec.read_attributes(data, message.start + nf.NFGENMSG_SIZE, message.end))


@given(st.integers(0, 200))
def test_what_is_cut_off_is_left_out(size: int) -> None:
    data = packet_message(b"x" * 50, 7) + packet_message(b"y" * 50, 8)
    whole = [7, 8][: size // (len(data) // 2)]
    assert [packet.mark for packet in nfq.read_packets(bytearray(data), size)] == whole
    assert len(list(codec.read_messages(data, size))) == len(whole)


def test_a_verdict_is_what_the_header_file_says() -> None:
    verdicts = nfq.Verdicts(0x1234)
    head = struct.pack("=IHHII", 40, 0x0301, 1, 0, 0) + struct.pack(">BBH", 0, 0, 0x1234)
    accept = struct.pack("=HH", 12, 2) + struct.pack(">II", 1, 9)
    mark = struct.pack("=HH", 8, 3) + struct.pack(">I", 0xFF002000)
    assert verdicts.accept_marked((9).to_bytes(4, "big"), 0xFF002000) == head + accept + mark
    assert verdicts.accept((9).to_bytes(4, "big")) == struct.pack("=I", 32) + head[4:] + accept


def test_an_error_and_an_acknowledgement_are_told_apart() -> None:
    for number in (0, 1, 16):
        data = struct.pack("=IHHIIi", 36, codec.NLMSG_ERROR, 0, 5, 0, -number) + bytes(16)
        (message,) = codec.read_messages(data, len(data))
        assert (message.sequence, codec.error_of(data, message)) == (5, number)


def entry_message(source: bytes, destination: bytes, ports: tuple[int, int], mark: int, protocol: int = 6) -> bytes:
    v6 = len(source) == 16
    ip = codec.nested(1, codec.attribute(3 if v6 else 1, source), codec.attribute(4 if v6 else 2, destination))
    proto = codec.nested(
        2,
        codec.attribute(1, bytes([protocol])),
        codec.attribute(2, ports[0].to_bytes(2, "big")),
        codec.attribute(3, ports[1].to_bytes(2, "big")),
    )
    body = codec.nested(1, ip, proto) + codec.attribute(3, bytes(4)) + codec.attribute(8, mark.to_bytes(4, "big"))
    return nf.message(ct.ENTRY, body, family=10 if v6 else 2)


addresses = st.sampled_from([4, 16]).flatmap(lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2))
ports = st.tuples(st.integers(0, 65535), st.integers(0, 65535))


@given(addresses, ports, st.integers(0, 2**32 - 1))
def test_a_tracked_connection_is_read_and_named_alike_in_its_change(
    ends: tuple[bytes, bytes], numbers: tuple[int, int], mark: int
) -> None:
    data = entry_message(*ends, numbers, mark)
    (message,) = codec.read_messages(data, len(data))
    entry = ct.read_entry(data, message.start + nf.NFGENMSG_SIZE, message.end)
    flow = b"".join(ends) + b"".join(number.to_bytes(2, "big") for number in numbers)
    assert entry == ct.Entry(flow, mark)

    request = ct.update(entry, Mark(0x01002000, 0xFF003000))
    (sent,) = codec.read_messages(request, len(request))
    assert (sent.kind, sent.flags) == (ct.ENTRY, codec.REQUEST | codec.ACK)
    assert ct.read_entry(request, sent.start + nf.NFGENMSG_SIZE, sent.end) == ct.Entry(flow, 0x01002000)
    masks = [
        request[a:b]
        for kind, a, b in codec.read_attributes(request, sent.start + nf.NFGENMSG_SIZE, sent.end)
        if kind == 21
    ]
    assert masks == [bytes.fromhex("ff003000")]


def counted(counters: int, value: int) -> bytes:
    return codec.nested(counters, codec.attribute(1, bytes(8)), codec.attribute(2, value.to_bytes(8, "big")))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_what_a_connection_has_carried_is_read_where_it_is_counted(up: int, down: int, began: int, state: int) -> None:
    bare = entry_message(bytes(4), bytes(4), (1, 2), 3)
    more = (
        counted(9, up)
        + counted(10, down)
        + codec.nested(20, codec.attribute(1, began.to_bytes(8, "big")))
        + codec.nested(4, codec.nested(1, codec.attribute(1, bytes([state])), codec.attribute(2, b"\0")))
    )
    data = nf.message(ct.ENTRY, bare[nf.HEAD :] + more, family=2)
    (message,) = codec.read_messages(data, len(data))
    entry = ct.read_entry(data, message.start + nf.NFGENMSG_SIZE, message.end)
    assert entry == ct.Entry(bytes(8) + b"\0\1\0\2", 3, state in (7, 8), up, down, began)


def test_udp_is_told_from_tcp_and_changed_as_such() -> None:
    data = entry_message(bytes(4), bytes(4), (1, 2), 3, protocol=17)
    (message,) = codec.read_messages(data, len(data))
    entry = ct.read_entry(data, message.start + nf.NFGENMSG_SIZE, message.end)
    assert entry == ct.Entry(bytes(8) + b"\0\1\0\2", 3, transport=TransportProtocol.UDP)
    # The kernel's own bytes of the identity, addresses and protocol, come back in the request.
    assert data[nf.HEAD : nf.HEAD + 52] in ct.update(entry, Mark(0, 1))


def test_what_is_neither_tcp_nor_udp_is_no_entry() -> None:
    data = entry_message(bytes(4), bytes(4), (1, 2), 3, protocol=132)
    (message,) = codec.read_messages(data, len(data))
    assert ct.read_entry(data, message.start + nf.NFGENMSG_SIZE, message.end) is None
