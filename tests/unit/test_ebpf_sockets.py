"""How sockets with verdicts are read from the kernel's answers, and how they are asked what they have carried."""

from __future__ import annotations

import random
import re
import socket
import struct
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from datapath.connection_list import Order
from datapath.ebpf import program, socket_list
from datapath.ebpf.socket_list import SIFTED, CarriedBytes, ChosenSockets, TooManySocketsError
from datapath.ebpf.socket_messages import (
    MOST_ASKED,
    SOCK_DIAG_BY_FAMILY,
    LaneSocket,
    age,
    answered,
    dump,
    questions,
    read_own_end,
    read_socket,
)
from tc_core.netlink.codec import NLMSG_DONE, attribute, attributes, nested, u32

STORAGES, STORAGE, MAP_ID, VALUE = 20, 1, 2, 3
"""linux/inet_diag.h and linux/sock_diag.h."""
OPEN, DECIDED, ASKED = 0, 1, 2
ESTABLISHED, SYN_SENT = 1, 2
CARRIED = struct.Struct("=16s16s2s2sHHQQ")


def flow(
    *, state: int = DECIDED, class_id: int = 7, inbound: int = 0, kept: int = 1, name: bytes = b"", began: int = 9
) -> bytes:
    """struct flow of lane.bpf.c."""
    head = struct.pack("=IIBBBBBBBB", 5, 77, state, 1, class_id, 0, inbound, kept, len(name), 0)
    return head + bytes(12) + struct.pack("=IQ", began, 1 << 63 | 3) + name.ljust(64, b"\0") + bytes(40)


def answer(
    ours: str, theirs: str, value: bytes | None, state: int = ESTABLISHED, ports: tuple[int, int] = (40000, 443)
) -> bytes:
    """struct inet_diag_msg and its attributes, as the kernel sends them."""
    family = socket.AF_INET6 if ":" in ours else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, each).ljust(16, b"\0") for each in (ours, theirs))
    head = struct.pack("=BBBB", family, state, 0, 0) + struct.pack("!HH", *ports) + addresses + bytes(32)
    rest = attribute(8, b"\0") + u32(15, 0)
    if value is not None:
        rest += nested(STORAGES, nested(STORAGE, u32(MAP_ID, 12), attribute(VALUE, value)))
    return head + rest


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@pytest.mark.parametrize(
    ("ours", "theirs", "as_ours", "as_theirs"),
    [
        ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"),
        ("2001:db8::1", "2001:db8::2", "2001:db8::1", "2001:db8::2"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", "10.0.0.1", "10.0.0.2"),
    ],
    ids=["IPv4", "IPv6", "IPv4 by a socket of IPv6"],
)
def test_a_socket_is_read_with_its_verdict(ours: str, theirs: str, as_ours: str, as_theirs: str) -> None:
    found = read_socket(answer(ours, theirs, flow(name=b"Api.Example.com")))
    assert found == LaneSocket(
        packed(as_ours), b"\x9c\x40", packed(as_theirs), b"\x01\xbb", "decided", 7, False, "tls", b"Api.Example.com",
        9, 1 << 63 | 3, 77,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "tcp", "expected"),
    [
        (flow(kept=2, name=b"a.b"), ESTABLISHED, ("decided", False, "http1", b"a.b")),
        (flow(kept=1), ESTABLISHED, ("decided", False, "tls", b"")),
        (flow(kept=0, name=b"left over"), ESTABLISHED, ("decided", False, None, b"")),
        (flow(state=OPEN, kept=0, inbound=1), ESTABLISHED, ("detecting", True, None, b"")),
        (flow(state=ASKED, kept=0), ESTABLISHED, ("detecting", False, None, b"")),
        (flow(state=OPEN, kept=0), SYN_SENT, ("connecting", False, None, b"")),
        (flow(kept=200, name=b"x"), ESTABLISHED, ("decided", False, None, b"x")),
    ],
    ids=[
        "HTTP",
        "TLS without a name",
        "nothing kept",
        "no data",
        "shown to user space",
        "not answered",
        "of another build",
    ],
)
def test_what_a_connection_is_doing(value: bytes, tcp: int, expected: tuple[str, bool, str | None, bytes]) -> None:
    found = read_socket(answer("10.0.0.1", "10.0.0.2", value, tcp))
    assert found is not None
    assert (found.state, found.inbound, found.protocol, found.name) == expected


def test_sockets_without_a_verdict_are_none() -> None:
    assert read_socket(answer("10.0.0.1", "10.0.0.2", None)) is None
    assert read_socket(answer("10.0.0.1", "10.0.0.2", flow() + bytes(8))) is None, "of another build"


def test_what_is_cut_off_or_broken_is_no_socket_and_no_error() -> None:
    whole = answer("2001:db8::1", "2001:db8::2", flow(name=b"api.example.com"))
    for size in range(len(whole)):
        assert read_socket(whole[:size]) is None
    draw = random.Random(5)
    read = 0
    for _ in range(5000):
        broken = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        found = read_socket(bytes(broken))
        read += found is not None
        if found is not None:
            assert len(found.ours) in (4, 16)
            assert len(found.name) <= 64
            assert len(questions([found])) == 14 + CARRIED.size
    assert read > 1000, "most mutations leave it readable"


def test_the_request_names_the_map_and_leaves_out_listeners_and_what_has_ended() -> None:
    request = dump(socket.AF_INET6, 33)
    family, protocol, extensions, _, states = struct.unpack_from("=BBBBI", request, 16)
    assert (family, protocol, extensions) == (socket.AF_INET6, 6, 0)
    assert [n for n in range(13) if states >> n & 1] == [1, 2, 4, 5, 8, 9, 11]
    [(kind, inner)] = attributes(request, 16 + 56).items()
    assert (kind, attributes(inner)) == (2, {1: struct.pack("=I", 33)})


def test_the_own_end_of_a_socket_of_udp() -> None:
    assert read_own_end(answer("10.0.0.1", "10.0.0.2", None)) == (packed("10.0.0.1"), b"\x9c\x40")
    assert read_own_end(answer("::ffff:10.0.0.1", "::ffff:10.0.0.2", None)) == (packed("10.0.0.1"), b"\x9c\x40")
    for anywhere in ("0.0.0.0", "::"):
        whole = answer(anywhere, anywhere, None)
        assert read_own_end(whole) == (b"", b"\x9c\x40")
        assert [read_own_end(whole[:size]) for size in range(72)] == [None] * 72


def crowd(count: int) -> Iterator[bytes]:
    """As many sockets, whose ports say their age, in no order; every tenth one has no verdict."""
    ages = list(range(1, count + 1))
    random.Random(7).shuffle(ages)
    now = time.monotonic_ns() >> 24
    for number in ages:
        value = flow(kept=0, began=(now - number) & 0xFFFFFFFF or 1) if number % 10 else None
        yield answer("10.0.0.1", "10.0.0.2", value, ports=(number, 443))


def test_of_a_crowd_only_those_are_kept_that_are_shown() -> None:
    count = 3 * SIFTED
    chosen = ChosenSockets(5, Order.NEWEST, CarriedBytes())
    for message in crowd(count):
        chosen.take(SOCK_DIAG_BY_FAMILY, message)
        assert chosen.held <= SIFTED + 5
    chosen.take(NLMSG_DONE, b"")
    assert [int.from_bytes(each.our_port, "big") for each in chosen.finish()] == [1, 2, 3, 4, 5]
    assert chosen.active == count - count // 10


def test_a_list_ends_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_list, "MOST_SOCKETS", 20)
    chosen = ChosenSockets(50, Order.NEWEST, CarriedBytes())
    messages = crowd(100)
    for message in islice(messages, 20):
        chosen.take(SOCK_DIAG_BY_FAMILY, message)
    with pytest.raises(TooManySocketsError):
        chosen.take(SOCK_DIAG_BY_FAMILY, next(messages))
    assert 15 < chosen.active == len(chosen.finish()) <= 20


def test_ages_are_counted_round_the_clock() -> None:
    unit = 1 << 24
    assert age(0, 10**15) is None, "that was not seen"
    assert age(5, 5 * unit + 1) == 0
    assert age(5, 305 * unit) == pytest.approx(300 * unit / 1e9)
    assert age(0xFFFFFFFF, (1 << 32) * unit + 2 * unit) == pytest.approx(3 * unit / 1e9)


def lane_socket(number: int, *, inbound: bool = False, v6: bool = False) -> LaneSocket:
    ours = packed(f"2001:db8::{number:x}") if v6 else packed(f"10.0.0.{number}")
    theirs = packed("2001:db8::ffff") if v6 else packed("10.9.9.9")
    return LaneSocket(ours, b"\0\1", theirs, b"\0\2", "decided", 1, inbound, None, b"", 0, 0, 0)


def test_questions_and_answers_are_in_one_order() -> None:
    asked = [lane_socket(1), lane_socket(2, inbound=True), lane_socket(3, v6=True), lane_socket(4)]
    frame = questions(asked)
    rows = list(CARRIED.iter_unpack(frame[14:]))
    assert rows[0] == (
        b"\0" * 10 + b"\xff\xff\x0a\x09\x09\x09",
        b"\0" * 10 + b"\xff\xff\x0a\0\0\1",
        b"\0\2",
        b"\0\1",
        4,
        0,
        0,
        0,
    )
    assert rows[2][:2] == (packed("2001:db8::ffff"), packed("2001:db8::3"))
    assert rows[2][4] == 6
    known = [(*row[:5], number != 3, 101, 200) for number, row in enumerate(rows)]
    back = frame[:14] + b"".join(CARRIED.pack(*row) for row in known)
    assert [(each.up, each.down) for each in answered(asked, back)] == [
        (100, 200),
        (200, 101),
        (100, 200),
        (None, None),
    ]
    assert [each.ours for each in answered(asked, back)] == [each.ours for each in asked]


def test_a_frame_with_the_most_questions_is_within_what_a_test_run_takes() -> None:
    """A page less what the kernel puts in front and behind (bpf_test_init() in net/bpf/test_run.c)."""
    assert len(questions([lane_socket(1)] * MOST_ASKED)) < 4096 - 256 - 512
    header = Path(program.__file__).parent / "programs" / "carried.h"
    assert re.findall(r"define MOST_ASKED (\d+)", header.read_text()) == [str(MOST_ASKED)]
