"""First bytes for the tests of detection: how to build them, and every way of feeding them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from datapath.protocols.detect import MAX_BYTES, Detection, Detector, Protocol, Reason

JUNK = b"\x16\x03\x01\x00\x00\x00GET \xff\r\n\r\n" * 3
"""Bytes that no reader could swallow, to stand behind the ones that decide."""


@dataclass(frozen=True)
class Run:
    """How a detection went: its answer (None: undecided), the bytes fed until then, and the calls."""

    detection: Detection | None
    fed: int
    calls: int


def run(pieces: Iterable[bytes], max_bytes: int = MAX_BYTES, *, heed_needed: bool = False) -> Run:
    """Feed pieces until there is an answer, watching over ``needed``: no answer may come before it is reached.

    With ``heed_needed``, wait like the proxy until as many bytes are there.
    """
    detector = Detector(max_bytes)
    fed = calls = 0
    held = b""
    for piece in pieces:
        held += piece
        if heed_needed and fed + len(held) < detector.needed:
            continue
        needed = detector.needed
        assert needed > fed
        fed += len(held)
        calls += 1
        detection = detector.feed(held)
        held = b""
        if detection is not None:
            assert fed >= needed, "an answer came before `needed` said one could"
            return Run(detection, fed, calls)
    return Run(None, fed + len(held), calls)


def detect(data: bytes, max_bytes: int = MAX_BYTES) -> Detection | None:
    return run([data], max_bytes).detection


def singly(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, *positions: int) -> list[bytes]:
    """The pieces between the positions."""
    edges = [0, *positions, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def detect_every_way(data: bytes, max_bytes: int = MAX_BYTES) -> Detection | None:
    """The answer to the whole, having made sure that the way of feeding does not change it.

    One byte at a time, every prefix, every cut in two, heeding ``needed``, and with other bytes behind.
    """
    whole = detect(data, max_bytes)
    dripped = run(singly(data), max_bytes)
    assert dripped.detection == whole
    assert run(singly(data), max_bytes, heed_needed=True).detection == whole
    for position in range(len(data) + 1):
        # The first piece is a prefix: it decides if the byte that does is in it, and not before.
        decided_by_prefix = whole is not None and position >= dripped.fed
        in_two = run(cut(data, position), max_bytes)
        assert (in_two.detection, in_two.fed) == (whole, position if decided_by_prefix else len(data)), position
    if whole is not None:
        assert detect(data + JUNK, max_bytes) == whole
    return whole


def vector(length_size: int, data: bytes) -> bytes:
    return len(data).to_bytes(length_size, "big") + data


def extension(kind: int, data: bytes = b"") -> bytes:
    return kind.to_bytes(2, "big") + vector(2, data)


def server_names(*names: tuple[int, bytes]) -> bytes:
    """A server_name extension of names with their types."""
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in names)))


def sni(name: bytes) -> bytes:
    return server_names((0, name))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def hello(
    *extensions: bytes,
    version: int = 0x0303,
    session: bytes = b"s" * 32,
    suites: bytes = b"\x13\x01\x13\x02\xc0\x2f",
    compression: bytes = b"\0",
    block: bytes | None = None,
) -> bytes:
    """A ClientHello message with its handshake header. ``block`` stands for the extensions and their length."""
    if block is None:
        block = vector(2, b"".join(extensions))
    body = (
        version.to_bytes(2, "big") + b"R" * 32 + vector(1, session) + vector(2, suites) + vector(1, compression) + block
    )
    return b"\x01" + vector(3, body)


def records(message: bytes, sizes: Sequence[int] = (), *, version: int = 0x0301, kind: int = 0x16) -> bytes:
    """The message in records of these sizes, the last size again and again; without sizes, as large as records may be."""
    out = bytearray()
    left = list(sizes) or [1 << 14]
    at = 0
    while at < len(message):
        size = left.pop(0) if len(left) > 1 else left[0]
        out += bytes([kind]) + version.to_bytes(2, "big") + vector(2, message[at : at + size])
        at += size
    return bytes(out)


def tls(name: str | None = None, alpn: tuple[str, ...] = (), *, ech: bool = False) -> Detection:
    return Detection(Protocol.TLS, Reason.FOUND, sni=name, alpn=alpn, ech=ech)


def http1(host: str | None) -> Detection:
    return Detection(Protocol.HTTP1, Reason.FOUND, host=host)


def http2(host: str | None) -> Detection:
    return Detection(Protocol.HTTP2, Reason.FOUND, host=host)


NOT_THIS = Detection(Protocol.OPAQUE, Reason.NOT_THIS)


def malformed(protocol: Protocol) -> Detection:
    return Detection(protocol, Reason.MALFORMED)


def count_calls(work: Callable[[], object]) -> int:
    """Calls of Python and C functions that the work takes: a measure of it that no clock disturbs."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
