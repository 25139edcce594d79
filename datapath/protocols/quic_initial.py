"""The ClientHello of a QUIC connection, from the datagrams that its client sends first.

How it works: :mod:`datapath.protocols.quic_packets` finds the Initial packets in a datagram,
:mod:`datapath.protocols.quic_crypto` opens them, the CRYPTO frames in them are put in order, and when the hello is
whole :func:`datapath.protocols.client_hello.parse_client_hello` reads it: QUIC carries TLS's handshake messages,
without its records (RFC 9001 4).

* A hello with a post-quantum key share takes two datagrams, which may change places on the way; browsers cut it into
  many frames in mixed order, with PING and PADDING in between.
* The keys derive from the destination id of the first Initial. The client repeats its hello with keys from another id
  after a Retry, and with another version after Version Negotiation. Packets of both may be in flight, so each set of
  keys has its own stream, and the first complete one counts.
* Packets that a server discards are skipped: Initials in datagrams of less than 1,200 bytes (RFC 9000 14.1), packets
  that cannot be decrypted, packets for another id in the same datagram. 0-RTT and Handshake packets, which may be
  coalesced with Initials, are skipped as well.
* Only the client's direction can be decrypted. The server's Initials have other keys, and an id that yields none.

Invariants: the answer depends on the datagrams alone; nothing raises, whatever they hold; work and memory are bounded.
"""

from __future__ import annotations

import re
from typing import Final

from datapath.protocols.client_hello import MESSAGE_HEADER, ClientHello, parse_client_hello
from datapath.protocols.detect import Detection
from datapath.protocols.quic_crypto import KEYS_SIZE, InitialKeys
from datapath.protocols.quic_packets import (
    MIN_DATAGRAM,
    Cursor,
    CutShortError,
    LongPacket,
    PacketType,
    read_header,
    read_packets,
)
from datapath.protocols.result import NeedMore, Protocol, Reason, Rejected

MAX_HELLO: Final = 16 << 10
"""Bytes of a ClientHello message, at most. Those with post-quantum key shares have about 2 KiB."""
MAX_BYTES: Final = 96 << 10
"""Bytes of datagrams looked at, at most, none counting less than MIN_DATAGRAM: the largest hello takes 20 KiB, twice
with a Retry, and again twice when all is lost once."""
MAX_STREAMS: Final = 4
"""Sets of keys of one client, at most: first Initial, Version Negotiation, Retry, and one to spare."""

_CLIENT_HELLO: Final = 0x01
_CRYPTO: Final = 0x06
_ACK: Final = 0x02
_ACK_ECN: Final = 0x03
_CONNECTION_CLOSE: Final = 0x1C
_PADDING_AND_PINGS: Final = re.compile(rb"[\x00\x01]*")


class QuicInitialReader:
    """Reads what one side of a UDP flow sends, datagram by datagram. ``max_bytes`` bounds how much is looked at."""

    __slots__ = ("_left", "_max_bytes", "_recognised", "_streams")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = self._left = max_bytes
        self._recognised = False
        self._streams: dict[tuple[int, bytes], tuple[InitialKeys, _CryptoStream]] = {}

    @property
    def opened(self) -> bool:
        """Whether an Initial could be opened: this is the side of a QUIC client."""
        return bool(self._streams)

    @property
    def held(self) -> int:
        """Bytes of memory that are there because of what came: keys, and what they opened."""
        return sum(KEYS_SIZE + stream.held for _, stream in self._streams.values())

    def feed(self, datagram: bytes) -> ClientHello | NeedMore | Rejected:
        """Take the next datagram. Not to be called again after a final outcome.

        Rejected says NOT_THIS when the first datagram is not QUIC's, MALFORMED when an Initial has contents that no
        server accepts, and LIMIT when there was too much to look at. Raises ImportError without ``cryptography``.
        """
        outcome = self._read(datagram)
        self._left -= max(len(datagram), MIN_DATAGRAM)
        if isinstance(outcome, NeedMore) and self._left <= 0:
            return Rejected(Reason.LIMIT, f"no whole ClientHello came in {self._max_bytes} bytes of datagrams")
        return outcome

    def _read(self, datagram: bytes) -> ClientHello | NeedMore | Rejected:
        packets = read_packets(datagram)
        if packets or _other_version(datagram):
            self._recognised = True
        elif not self._recognised:
            return Rejected(Reason.NOT_THIS, "the datagram does not begin with a QUIC packet")
        if len(datagram) < MIN_DATAGRAM:
            return NeedMore()
        outcome: ClientHello | NeedMore | Rejected = NeedMore()
        for packet in packets:
            if packet.kind is PacketType.INITIAL:
                outcome = self._initial(packet)
                if not isinstance(outcome, NeedMore):
                    break
        return outcome

    def _initial(self, packet: LongPacket) -> ClientHello | NeedMore | Rejected:
        for keys, stream in self._streams.values():
            frames = keys.open(packet)
            if frames is not None:
                return stream.take(frames)
        name = (packet.version, packet.destination_id)
        if name in self._streams or len(self._streams) >= MAX_STREAMS:
            return NeedMore()
        keys = InitialKeys(*name)
        frames = keys.open(packet)
        if frames is None:
            return NeedMore()
        stream = _CryptoStream()
        self._streams[name] = keys, stream
        return stream.take(frames)


def detection_of(outcome: ClientHello | NeedMore | Rejected) -> Detection | None:
    """What an outcome says of the connection; None: nothing yet."""
    match outcome:
        case NeedMore():
            return None
        case Rejected(Reason.NOT_THIS):
            return Detection(Protocol.OPAQUE, Reason.NOT_THIS)
        case Rejected(reason):
            return Detection(Protocol.QUIC, reason)
        case ClientHello(sni, alpn, ech):
            return Detection(Protocol.QUIC, Reason.FOUND, sni=sni, alpn=alpn, ech=ech)


class _CryptoStream:
    """The handshake bytes of one set of keys, put in order."""

    __slots__ = ("_bytes", "_have", "_ready")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._have = bytearray()  # 1 for each byte that has come
        self._ready = 0

    @property
    def held(self) -> int:
        return len(self._bytes) + len(self._have)

    def take(self, frames: bytes) -> ClientHello | NeedMore | Rejected:
        """Take the frames of one packet (RFC 9000 19)."""
        cursor = Cursor(frames)
        try:
            while True:
                filler = _PADDING_AND_PINGS.match(frames, cursor.at)
                assert filler is not None  # the pattern matches the empty string
                cursor.at = filler.end()
                if cursor.at == len(frames):
                    return self._hello()
                kind = cursor.variable()
                if kind not in _FRAMES:
                    return _malformed(f"an Initial has a frame of type {kind:#x}")  # RFC 9000 12.4
                if kind == _CRYPTO:
                    if not self._keep(cursor.variable(), cursor.take(cursor.variable())):
                        return _malformed("bytes of the handshake come twice, and differ")
                else:
                    _pass_over(kind, cursor)
        except CutShortError:
            return _malformed("a frame in an Initial is cut short")

    def _keep(self, offset: int, data: bytes) -> bool:
        """Take bytes of the handshake; False when some of them came before, and were others.

        No client does that (RFC 9000 7.5): one copy is meant for us, and the other one for the server.
        """
        end = min(offset + len(data), MAX_HELLO)
        if offset >= end:
            return True
        missing = bytes(max(end - len(self._bytes), 0))
        self._bytes += missing
        self._have += missing
        data = data[: end - offset]
        had = self._have[offset:end]
        if 1 in had and data != self._bytes[offset:end]:
            before = zip(had, data, self._bytes[offset:end], strict=True)
            if any(there and now != then for there, now, then in before):
                return False
        self._bytes[offset:end] = data
        self._have[offset:end] = b"\x01" * (end - offset)
        gap = self._have.find(0, self._ready)
        self._ready = gap if gap >= 0 else len(self._have)
        return True

    def _hello(self) -> ClientHello | NeedMore | Rejected:
        """What the bytes in order say (RFC 8446 4): the first message is a ClientHello, or this is no client."""
        if self._ready and self._bytes[0] != _CLIENT_HELLO:
            return _malformed(f"the first handshake message has type {self._bytes[0]}, not ClientHello (1)")
        if self._ready < MESSAGE_HEADER:
            return NeedMore()
        end = MESSAGE_HEADER + int.from_bytes(self._bytes[1:MESSAGE_HEADER], "big")
        if end > MAX_HELLO:
            return Rejected(Reason.LIMIT, f"the ClientHello takes more than {MAX_HELLO} bytes")
        if self._ready < end:
            return NeedMore(end - self._ready)
        return parse_client_hello(bytes(self._bytes[MESSAGE_HEADER:end]))


_FRAMES: Final = frozenset({_CRYPTO, _ACK, _ACK_ECN, _CONNECTION_CLOSE})
"""Frame types allowed in an Initial, other than PADDING and PING (RFC 9000 12.4, table 3)."""


def _pass_over(kind: int, cursor: Cursor) -> None:
    """Go behind an ACK (RFC 9000 19.3) or CONNECTION_CLOSE (19.19) frame."""
    if kind == _CONNECTION_CLOSE:
        cursor.variable()
        cursor.variable()
        cursor.take(cursor.variable())
        return
    cursor.variable()
    cursor.variable()
    ranges = cursor.variable()
    for _ in range(1 + 2 * ranges + (3 if kind == _ACK_ECN else 0)):
        cursor.variable()


def _other_version(datagram: bytes) -> bool:
    """Whether it may be a client's first packet of a version that is not known: the server may refuse that version.

    Such packets are long headers in datagrams of 1,200 bytes or more (RFC 9000 5.2.2). Version 0 is Version
    Negotiation, which only servers send.
    """
    header = read_header(datagram)
    return header is not None and header.version != 0 and not header.known and len(datagram) >= MIN_DATAGRAM


def _malformed(why: str) -> Rejected:
    return Rejected(Reason.MALFORMED, why)
