"""The harness for QUIC's first packets."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

# Where the tests' own writer of QUIC packets is, which is aioquic's and so no relative of our reader.
sys.path.append(str(Path(__file__).parents[1] / "unit"))

from quic_datagrams import ID, crypto, initial

from sidecar.protocols.client_hello import ClientHello, parse_client_hello
from sidecar.protocols.outcome import NeedMore, Reason, Rejected
from sidecar.protocols.quic_crypto import KEYS_SIZE
from sidecar.protocols.quic_initial import MAX_BYTES, MAX_HELLO, MAX_STREAMS, QuicInitialReader

_IDS = (ID, b"", b"other id", b"retried!", bytes(20))
_FRAMES = 1300
"""Bytes in one Initial, at most: aioquic seals no more than a datagram holds."""
_MOST_HELD = MAX_STREAMS * (KEYS_SIZE + 2 * MAX_HELLO)


def quic_initial(data: bytes) -> None:
    """The first byte says what the others are: datagrams, frames to be sealed in Initials, or a hello to be cut.

    Parts of the first two kinds follow each other with two bytes for their length.
    """
    if not data:
        return
    kind, rest = data[0] % 3, data[1:]
    if kind == 0:
        _read([_padded(part) for part in _parts(rest)])
    elif kind == 1:
        parts = [part[: 1 + _FRAMES] for part in _parts(rest) if part]
        # Three bytes more, which are PADDING, are what there must be for header protection.
        _read([initial(part[1:] + bytes(3), to=_IDS[part[0] % len(_IDS)]) for part in parts])
    else:
        _hello_in_frames(rest[:MAX_HELLO])


def _parts(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at + 2 <= len(data) and len(found) < 8:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : end])
        at = end
    return found


def _padded(part: bytes) -> bytes:
    """Most of them large enough to count."""
    return part if zlib.crc32(part) % 8 == 0 else part + bytes(max(0, 1200 - len(part)))


def _read(datagrams: list[bytes]) -> ClientHello | NeedMore | Rejected:
    """The outcome, twice the same; nothing raises, and memory has a bound."""
    outcomes = []
    for _ in range(2):
        reader = QuicInitialReader()
        outcome: ClientHello | NeedMore | Rejected = NeedMore()
        for datagram in datagrams:
            outcome = reader.feed(datagram)
            assert reader.held <= _MOST_HELD, f"{reader.held} bytes are held"
            if not isinstance(outcome, NeedMore):
                break
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]
    if isinstance(outcome, Rejected):
        assert outcome.why
        assert outcome.reason in (Reason.NOT_THIS, Reason.MALFORMED, Reason.LIMIT)
    elif isinstance(outcome, NeedMore):
        assert sum(max(1200, len(datagram)) for datagram in datagrams) < MAX_BYTES, "it would go on for ever"
    return outcome


def _hello_in_frames(body: bytes) -> None:
    """However a hello is cut into frames, and whichever order they come in, it is read as it is in one piece."""
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    chance = zlib.crc32(body)
    step = 60 + chance % 900
    frames = [crypto(at, message[at : at + step + chance % 7]) for at in range(0, len(message), step)]
    if chance & 1:
        frames.reverse()
    datagrams: list[bytes] = []
    packet = b""
    for frame in frames:
        if packet and len(packet) + len(frame) > 1100:
            datagrams.append(initial(packet, number=len(datagrams)))
            packet = b""
        packet += b"\x01" * (chance >> 8 & 3) + frame
    datagrams.append(initial(packet, number=len(datagrams)))
    expected = parse_client_hello(body)
    if len(message) > MAX_HELLO:
        assert isinstance(expected, Rejected)
        return
    if chance & 1 or chance & 2:
        datagrams.insert(0, datagrams[-1])  # sent again
    if sum(max(1200, len(datagram)) for datagram in datagrams) < MAX_BYTES:
        assert _read(datagrams) == expected
