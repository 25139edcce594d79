"""When a client has nothing more to say before it is answered."""

from __future__ import annotations

import pytest
from first_bytes import extension, hello, records, sni

from datapath.protocols.sniff import awaits_answer

HELLO = records(hello(sni(b"a.example")))
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n"


@pytest.mark.parametrize(
    ("data", "awaits"),
    [
        (GET + b"\r\n", True),
        (b"HEAD / HTTP/1.0\r\n\r\n", True),
        (GET, False),
        (GET + b"\r\nmore", False),
        (GET + b"Content-Length: 5\r\n\r\n", False),
        (GET + b"transfer-encoding : chunked\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n", False),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
        (HELLO, True),
        (HELLO[:-1], False),
        (HELLO + b"\x14\x03\x03\0\x01\x01", False),
        (records(hello(sni(b"a.example")), (20,)), False),
        (records(hello(sni(b"a.example"), extension(42))), False),
        (HELLO[:4], False),
        (b"\x16\x03\x01\0\0", False),
        (b"", False),
        (b"EHLO a.example\r\n", False),
    ],
    ids=[
        "GET",
        "HEAD",
        "half a head",
        "more behind the head",
        "a body of known length",
        "a body in chunks",
        "POST",
        "HTTP/2",
        "a hello",
        "half a hello",
        "more behind the hello",
        "a hello in two records",
        "early data follows",
        "a record's beginning",
        "an empty record",
        "nothing",
        "another protocol",
    ],
)
def test_first_bytes(data: bytes, awaits: bool) -> None:
    assert awaits_answer(data) is awaits
    assert awaits_answer(bytearray(data)) is awaits
