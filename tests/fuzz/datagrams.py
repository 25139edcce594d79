"""The harness for QUIC's first packets."""

from __future__ import annotations

import sys
import zlib
from functools import cache, lru_cache
from pathlib import Path

from aioquic.quic.crypto import CryptoPair

# Where the tests' own writer of QUIC packets is.
sys.path.append(str(Path(__file__).parents[1] / "unit"))

from quic_datagrams import ID, crypto, variable

from datapath.protocols import quic_initial as reader_module
from datapath.protocols.client_hello import ClientHello, parse_client_hello
from datapath.protocols.quic_crypto import KEYS_SIZE, InitialKeys
from datapath.protocols.quic_initial import MAX_BYTES, MAX_HELLO, MAX_STREAMS, QuicInitialReader
from datapath.protocols.quic_packets import MIN_DATAGRAM, VERSION_1
from datapath.protocols.result import NeedMore, Reason, Rejected

_IDS = (ID, b"", b"other id", b"retried!", bytes(20))
_TAG = 16
"""Bytes of the tag of AEAD_AES_128_GCM (RFC 5116 5.1)."""
_NUMBER = 2
"""Bytes of a packet number."""
_FRAMES = 1300
"""Bytes in one Initial, at most: aioquic seals no more than a datagram holds."""
_MOST_HELD = MAX_STREAMS * (KEYS_SIZE + 2 * MAX_HELLO)
_known_keys = lru_cache(maxsize=64)(InitialKeys)


def quic_initial(data: bytes, *, full: bool = True) -> None:
    """The first byte says what the others are: datagrams, frames to be sealed in Initials, or a hello to be cut.

    Parts of the first two kinds follow each other with two bytes for their length.
    """
    if not data:
        return
    kind, rest = data[0] % 3, data[1:]
    if kind == 0:
        _read([_padded(part) for part in _parts(rest)], full)
    elif kind == 1:
        parts = [part[: 1 + _FRAMES] for part in _parts(rest) if part]
        # Three bytes more, which are PADDING, are what there must be for header protection.
        _read([_initial(part[1:] + bytes(3), to=_IDS[part[0] % len(_IDS)]) for part in parts], full)
    else:
        _hello_in_frames(rest[:MAX_HELLO], full)


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


def _initial(frames: bytes, *, to: bytes = ID, number: int = 0) -> bytes:
    """A datagram with one Initial, filled up by PADDING; sealed by aioquic, which is no relative of our reader."""
    start = VERSION_1.to_bytes(4, "big") + bytes([len(to)]) + to + b"\x04from" + variable(0)
    size = max(_NUMBER + len(frames) + _TAG, MIN_DATAGRAM - 1 - len(start) - len(variable(0)))
    header = bytes([0xC0 | _NUMBER - 1]) + start + variable(size) + number.to_bytes(_NUMBER, "big")
    packet: bytes = _sealing(to).encrypt_packet(header, frames.ljust(size - _NUMBER - _TAG, b"\0"), number)
    return packet


@cache
def _sealing(to: bytes) -> CryptoPair:
    """The keys of a client that sends to this id."""
    pair = CryptoPair()
    pair.setup_initial(cid=to, is_client=True, version=VERSION_1)
    return pair


def _read(datagrams: list[bytes], full: bool) -> ClientHello | NeedMore | Rejected:
    """The outcome, in full twice the same; nothing raises, and memory has a bound."""
    if full:
        outcome = _outcome(datagrams)
        assert _outcome(datagrams) == outcome
    else:
        # Keys have no state, and to make them takes longer than all else.
        reader_module.InitialKeys = _known_keys
        try:
            outcome = _outcome(datagrams)
        finally:
            reader_module.InitialKeys = InitialKeys
    if isinstance(outcome, Rejected):
        assert outcome.why
        assert outcome.reason in (Reason.NOT_THIS, Reason.MALFORMED, Reason.LIMIT)
    elif isinstance(outcome, NeedMore):
        assert sum(max(1200, len(datagram)) for datagram in datagrams) < MAX_BYTES, "it would go on for ever"
    return outcome


def _outcome(datagrams: list[bytes]) -> ClientHello | NeedMore | Rejected:
    reader = QuicInitialReader()
    outcome: ClientHello | NeedMore | Rejected = NeedMore()
    for datagram in datagrams:
        outcome = reader.feed(datagram)
        assert reader.held <= _MOST_HELD, f"{reader.held} bytes are held"
        if not isinstance(outcome, NeedMore):
            break
    return outcome


def _hello_in_frames(body: bytes, full: bool) -> None:
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
            datagrams.append(_initial(packet, number=len(datagrams)))
            packet = b""
        packet += b"\x01" * (chance >> 8 & 3) + frame
    datagrams.append(_initial(packet, number=len(datagrams)))
    expected = parse_client_hello(body)
    if len(message) > MAX_HELLO:
        assert isinstance(expected, Rejected)
        return
    if chance & 1 or chance & 2:
        datagrams.insert(0, datagrams[-1])  # sent again
    if sum(max(1200, len(datagram)) for datagram in datagrams) < MAX_BYTES:
        assert _read(datagrams, full) == expected
