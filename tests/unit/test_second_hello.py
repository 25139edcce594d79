"""The second ClientHello behind a HelloRetryRequest: found however it is cut, and nothing else taken for one."""

from __future__ import annotations

import pytest
from first_bytes import extension, hello, records, sni
from hypothesis import given
from hypothesis import strategies as st

from datapath.protocols.client_hello import ClientHello
from datapath.protocols.second_hello import MAX_BYTES, SecondHello, is_over

FIRST, SECOND = records(hello(sni(b"fast.example"))), records(hello(sni(b"slow.example")))
EARLY = records(hello(sni(b"fast.example"), extension(42)))
CCS, ALERT = b"\x14\x03\x03\0\x01\x01", b"\x15\x03\x03\0\x02\x01\x5a"
SEALED = b"\x17\x03\x03\x04\0" + bytes(1024)
FOUND = ClientHello(sni="slow.example")


def found(*pieces: bytes) -> tuple[ClientHello | None, bool]:
    """What is found, and whether the search is over."""
    second = SecondHello()
    for piece in pieces:
        if not second.done and (hello := second.feed(piece)) is not None:
            return hello, second.done
    return None, second.done


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(FIRST, (None, False), id="one hello"),
        pytest.param(FIRST + SECOND, (FOUND, True), id="two"),
        pytest.param(b"PROXY UNKNOWN\r\n" + FIRST + SECOND, (FOUND, True), id="behind a PROXY header"),
        pytest.param(FIRST + CCS + ALERT + CCS + SECOND, (FOUND, True), id="ChangeCipherSpec and alerts between"),
        pytest.param(
            records(hello(sni(b"fast.example")) + hello(sni(b"slow.example"))), (FOUND, True), id="in one record"
        ),
        pytest.param(FIRST + records(hello(sni(b"slow.example")), (1,)), (FOUND, True), id="one byte in each record"),
        pytest.param(FIRST + b"\x16\x03\x03\0\0" * 9 + SECOND, (FOUND, True), id="empty records"),
        pytest.param(FIRST + records(b"\x01\0\0\x02no"), (ClientHello(), True), id="one that cannot be read"),
        pytest.param(FIRST + SEALED + SECOND, (None, True), id="no early data was announced"),
        pytest.param(EARLY + SEALED * 16 + SECOND, (FOUND, True), id="early data that the server skips"),
        pytest.param(EARLY + SEALED * (MAX_BYTES // 1024), (None, True), id="no end of early data"),
        pytest.param(FIRST + CCS + SEALED, (None, True), id="TLS 1.3"),
        pytest.param(FIRST + records(b"\x10\0\0\x01x"), (None, True), id="TLS 1.2"),
        pytest.param(CCS + FIRST, (None, True), id="no hello first"),
    ],
)
def test_what_follows_the_first_hello(stream: bytes, expected: tuple[ClientHello | None, bool]) -> None:
    assert found(stream) == expected
    if not stream.startswith(b"PROXY"):
        assert found(*(stream[at : at + 1] for at in range(len(stream)))) == expected


@pytest.mark.parametrize(
    ("behind", "over"),
    [(CCS + SEALED, True), (SEALED, True), (CCS, False), (SECOND, False), (CCS + SECOND, False), (b"", False)],
)
def test_the_usual_next_packet_ends_it_at_a_glance(behind: bytes, over: bool) -> None:
    assert is_over(behind) == over


@given(st.sampled_from([b"", CCS, b"\x17", b"\x16\x03\x03", b"\x14\x03"]), st.binary(max_size=30))
def test_a_glance_says_what_a_look_says(begin: bytes, data: bytes) -> None:
    second = SecondHello(behind=True)
    second.feed(begin + data + bytes(5))
    assert second.done or not is_over(begin + data)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_nothing_raises(data: bytes, at: int) -> None:
    for first in (b"", FIRST, EARLY):
        assert found(first + data) == found(first + data[:at], data[at:])
