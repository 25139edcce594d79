"""The first bytes of a TCP direction: any order, retransmitted, overlapping, around the end of the sequence numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from first_bytes import alpn, cut, detect, hello, records, singly, sni, tls
from hypothesis import given
from hypothesis import strategies as st

from datapath.protocols.detect import Detection, Detector, Protocol, Reason
from datapath.protocols.streams import FirstBytes

HELLO = records(hello(sni(b"a.example.com"), alpn(b"h2")), [40, 1, 200])
BASES = [pytest.param(1000, id="plain"), pytest.param(2**32 - 100, id="numbers that wrap"), pytest.param(0, id="zero")]


def put(stream: FirstBytes, segments: Iterable[tuple[int, bytes]], base: int) -> Detection | None:
    """Add (offset, bytes) until there is an answer."""
    for offset, data in segments:
        answer = stream.add((base + offset) % 2**32, data)
        if answer is not None:
            return answer
    return None


def segments(data: bytes, *positions: int) -> list[tuple[int, bytes]]:
    """(offset, bytes) of the pieces between the positions."""
    return [(start, piece) for start, piece in zip((0, *positions), cut(data, *positions), strict=True)]


@pytest.mark.parametrize("base", BASES)
def test_one_byte_at_a_time_backwards(base: int) -> None:
    pieces = [*enumerate(singly(HELLO))]
    assert put(FirstBytes(base), reversed(pieces), base) == tls("a.example.com", ("h2",))


@given(st.data())
def test_the_answer_is_that_of_the_stream_however_it_was_cut_and_shuffled(data: st.DataObject) -> None:
    """Pieces that overlap at random and come in any order, some twice."""
    edge = st.integers(0, len(HELLO))
    pieces = segments(HELLO, *sorted(data.draw(st.lists(edge, max_size=6))))
    extra = [
        (min(a, b), HELLO[min(a, b) : max(a, b)]) for a, b in data.draw(st.lists(st.tuples(edge, edge), max_size=6))
    ]
    base = data.draw(st.sampled_from([0, 1000, 2**32 - 1, 2**32 - 150]))
    order = data.draw(st.permutations([*pieces, *extra]))
    assert put(FirstBytes(base), order, base) == detect(HELLO)


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=60)), max_size=30))
def test_anything_at_all_stays_within_bounds(pieces: list[tuple[int, bytes]]) -> None:
    stream = FirstBytes(0)
    put(stream, pieces, 0)
    assert 0 <= stream.fed <= 460
    assert 0 <= stream.held <= 460


def test_of_bytes_that_come_twice_the_first_ones_count() -> None:
    other = HELLO.replace(b"a.example.com", b"b.example.org")
    at = HELLO.index(b"a.example")
    # Behind a gap, where both wait: still the first.
    stream = FirstBytes(0)
    order = [(at - 5, HELLO[at - 5 : at + 30]), (at - 9, other[at - 9 : at + 40]), (0, other[:at])]
    answer = put(stream, [*order, (at + 40, HELLO[at + 40 :])], 0)
    assert answer is not None
    assert answer.sni == "a.example.com"
    # And what has been shown already is not shown again.
    stream = FirstBytes(0)
    assert put(stream, [(0, HELLO[:-1]), (0, other)], 0) == tls("a.example.com", ("h2",))


def test_bytes_from_before_the_start_are_passed_over() -> None:
    stream = FirstBytes(1000)
    assert stream.add(999, b"\0") is None  # a keep-alive probe
    assert stream.fed == 0
    assert stream.add(990, b"x" * 10 + HELLO) == tls("a.example.com", ("h2",))


def test_without_a_base_the_first_segment_is_the_start() -> None:
    assert FirstBytes().add(123_456, HELLO) == tls("a.example.com", ("h2",))


def test_a_gap_is_told() -> None:
    stream = FirstBytes(0)
    put(stream, [(0, HELLO[:20]), (30, HELLO[30:])], 0)
    assert stream.has_gap
    assert stream.finish() == Detection(Protocol.TLS, Reason.EOF)


def test_what_can_no_longer_decide_is_not_held() -> None:
    stream = FirstBytes(0)
    assert put(stream, [(Detector.MAX_BYTES, b"x" * 1000), (2**31, b"x")], 0) is None
    assert stream.held == 0
    for start in range(10, 3 * Detector.MAX_BYTES, 1000):
        stream.add(start, bytes(1000))
    assert stream.held <= Detector.MAX_BYTES


def test_a_storm_of_tiny_pieces_is_bounded() -> None:
    order = list(range(1, 60_000, 2))
    random.Random(2).shuffle(order)
    stream = FirstBytes(0)
    for at in order:
        stream.add(at, b"x")
    assert stream.held == 1024
