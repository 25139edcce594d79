"""First bytes that come again: the same answer, without keeping what they say."""

from __future__ import annotations

import sys

import pytest
from first_bytes import hello, records, sni

from datapath.protocols import detection_cache
from datapath.protocols.detect import detect_at_once
from datapath.protocols.detection_cache import detect_repeated

SECRET = b"Basic dXNlcjpwYXNzd29yZA=="


def head(number: int = 0) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: a.example\r\nAuthorization: %b\r\n\r\n" % (number, SECRET)


@pytest.mark.parametrize(
    "data",
    [
        head(),
        head() + b"x" * 512,
        b"GET / HTTP/1.1\r\nHo",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x80nothing known",
        records(hello(sni(b"api.example.com"))),
        b"",
    ],
    ids=["head", "long head", "half a head", "refused", "preface", "opaque", "hello", "nothing"],
)
def test_it_is_the_same_each_time(data: bytes) -> None:
    assert [detect_repeated(data) for _ in range(3)] == [detect_at_once(data)] * 3


def test_no_head_is_kept() -> None:
    data = head(1)
    held = sys.getrefcount(data)
    detection = detect_repeated(data)
    assert detection is detect_repeated(data), "it is not remembered"
    assert sys.getrefcount(data) == held
    assert SECRET not in repr(detection_cache._remembered).encode()
    assert {len(key) for key in detection_cache._remembered} == {16}


def test_what_is_remembered_is_bounded() -> None:
    for number in range(3000):
        detect_repeated(head(number))
    assert len(detection_cache._remembered) <= 1024
