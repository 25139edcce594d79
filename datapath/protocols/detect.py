"""From the first bytes of a connection to what it is: TLS, HTTP/1, HTTP/2 or none of them, and the names it gives.

Clients without keep-alive repeat their requests, so :func:`detect_repeated` remembers what short first bytes said.

How it works: nearly always the client's first segment holds a whole ClientHello or HTTP/1 head and nothing of it is
missing. :func:`detect_at_once` reads that in one go, without keeping anything. Everything else goes the long way:
:class:`datapath.protocols.sniff.ProtocolSniffer` finds out which protocol begins, then that protocol's reader takes
over until it has the name. The detector keeps the account: how many bytes were looked at, how many are needed next, and
when there have been enough. Both ways give the same answers, and both pass over a header of the PROXY protocol that
comes first.

Invariants: no byte is altered or kept for anybody (the caller has them); the answer depends on the bytes alone, not on
how they were cut into pieces; once there is an answer, no further bytes could change it; the total work is linear in
the bytes, even when they drip in one at a time.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import ClassVar, Final, NamedTuple

from datapath.bounded_map import BoundedMap
from datapath.protocols.client_hello import ClientHello, ClientHelloReader, whole_client_hello
from datapath.protocols.http1 import Http1Reader, Http1Request, read_head
from datapath.protocols.http2 import Http2Reader, Http2Request, whole_request
from datapath.protocols.proxy_header import FIRST_BYTES, bytes_to_come, header_size
from datapath.protocols.result import NeedMore, Protocol, Reason, Rejected
from datapath.protocols.sniff import CAN_BEGIN_A_LINE, HTTP2_PREFACE, TLS_BEGINNING, ProtocolSniffer

__all__ = ["MAX_BYTES", "Detection", "Detector", "Protocol", "Reason", "detect_at_once", "detect_repeated"]

MAX_BYTES: Final = (64 << 10) + 1024
"""Bytes looked at, at most: a ClientHello of 64 KiB, and 1 KiB for its handshake header and the headers of up to 204
records."""


class Detection(NamedTuple):
    """What is known of a connection.

    ``protocol`` is given whenever the bytes showed it, also when ``reason`` says that the rest could not be read; names
    are there only when the reason is FOUND. ``sni`` and ``host`` are in comparable form (:mod:`traffic_policy.names`).
    """

    protocol: Protocol
    reason: Reason
    sni: str | None = None
    """Server name of the ClientHello; None when absent or no DNS name."""
    host: str | None = None
    """Host or :authority of the first request; None when absent or unusable."""
    alpn: tuple[str, ...] = ()
    """What the ClientHello offers, in its order, decoded as latin-1."""
    ech: bool = False
    """The ClientHello has an encrypted_client_hello extension, so ``sni`` may be only the outer name."""


_ALIKE: Final = 512
"""Bytes at most that are looked up instead of read again."""
_REMEMBERED: Final = 1024
"""Beginnings."""

# A head may have a password or a cookie, which is not to stay here for longer than its connection. So it is known by a
# digest (RFC 7693) that nobody can try guesses at without the key, nor find two heads for.
_blank: Final = blake2b(digest_size=16, key=os.urandom(blake2b.MAX_KEY_SIZE))
_remembered: Final = BoundedMap[bytes, Detection](_REMEMBERED)


_NOT_THIS: Final = Detection(Protocol.OPAQUE, Reason.NOT_THIS)
_TLS, _HTTP1, _HTTP2, _FOUND = Protocol.TLS, Protocol.HTTP1, Protocol.HTTP2, Reason.FOUND


def detect_at_once(data: bytes) -> Detection | None:
    """What a connection is that begins with ``data`` (at most ``MAX_BYTES`` of it), if the usual case shows it.

    None: that takes a :class:`Detector`, and perhaps more bytes.
    """
    if data[:2] == TLS_BEGINNING:
        hello = whole_client_hello(data)
        if hello is None:
            return None
        if isinstance(hello, Rejected):
            return Detection(_TLS, hello.reason)
        return Detection(_TLS, _FOUND, hello.sni, None, hello.alpn, hello.ech)
    if data[:1] in FIRST_BYTES and (size := header_size(data)) != 0:
        # There is one at most: a second is for the detector to refuse.
        return None if size is None or header_size(data[size:]) != 0 else detect_at_once(data[size:])
    if data.startswith(HTTP2_PREFACE):
        first = whole_request(data)
        return None if first is None else Detection(_HTTP2, _FOUND, None, first.host)
    request = read_head(data)
    if request is None:
        return _NOT_THIS if data and data[0] not in CAN_BEGIN_A_LINE and data[0] != TLS_BEGINNING[0] else None
    if isinstance(request, Rejected):
        return Detection(_HTTP1, request.reason)
    return Detection(_HTTP1, _FOUND, None, request.host)


def detect_repeated(data: bytes) -> Detection | None:
    """As :func:`detect_at_once`, from memory where that may help. Several threads may call it."""
    # Hellos differ each time.
    if len(data) > _ALIKE or data[:1] == TLS_BEGINNING[:1]:
        return detect_at_once(data)
    keyed = _blank.copy()
    keyed.update(data)
    digest = keyed.digest()
    detection = _remembered.get(digest)
    if detection is None:
        detection = detect_at_once(data)
        if detection is not None:
            _remembered[digest] = detection
    return detection


class Detector:
    """Detects the protocol of one connection. Feed it the client's bytes; stop at the first answer."""

    MAX_BYTES: ClassVar[int] = MAX_BYTES

    __slots__ = ("_decided", "_header", "_max_bytes", "_needed", "_protocol", "_reader", "_seen")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """``max_bytes`` is how many bytes are looked at before giving up. ValueError when it is below 1."""
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}. Let the detector see one byte at least.")
        self._max_bytes = max_bytes
        self._header: bytearray | None = bytearray()  # what may be one that is passed over; None: that is behind us
        self._reader: ProtocolSniffer | ClientHelloReader | Http1Reader | Http2Reader = ProtocolSniffer()
        self._protocol = Protocol.OPAQUE
        self._seen = 0
        self._needed = 1
        self._decided = False

    @property
    def needed(self) -> int:
        """How many bytes, counted from the connection's first, :meth:`feed` must have had in order to get on.

        With fewer it only keeps them and returns None, so the caller may wait until there are as many.
        """
        return self._needed

    @property
    def seen(self) -> int:
        """How many bytes it has been fed and looked at."""
        return self._seen

    @property
    def awaits_server(self) -> bool:
        """Whether an HTTP/2 client has sent whole frames but no request: it may wait for the server's SETTINGS."""
        return isinstance(self._reader, Http2Reader) and self._reader.between_frames

    def feed(self, data: bytes | bytearray | memoryview) -> Detection | None:
        """Take the bytes that are new; None as long as more are needed.

        Raises ValueError when there was an answer already.
        """
        self._check_undecided()
        fresh = bytes(memoryview(data)[: self._max_bytes - self._seen])
        if not self._seen:
            at_once = detect_at_once(fresh)
            if at_once is not None:
                self._decided = True
                return at_once
        self._seen += len(fresh)
        match self._read(fresh):
            case NeedMore(more):
                if self._seen >= self._max_bytes:
                    return self._answer(Reason.LIMIT)
                self._needed = min(self._seen + more, self._max_bytes)
                return None
            case Rejected(reason):
                return self._answer(reason)
            case ClientHello(sni, alpn, ech):
                self._decided = True
                return Detection(self._protocol, Reason.FOUND, sni=sni, alpn=alpn, ech=ech)
            case Http1Request(host) | Http2Request(host):
                self._decided = True
                return Detection(self._protocol, Reason.FOUND, host=host)

    def finish(self, reason: Reason) -> Detection:
        """End without an answer, by timeout, end of stream or a limit of the caller's: what is known so far.

        Raises ValueError when there was an answer already.
        """
        self._check_undecided()
        return self._answer(reason)

    def _read(self, fresh: bytes) -> ClientHello | Http1Request | Http2Request | NeedMore | Rejected:
        """What the reader whose turn it is makes of new bytes."""
        if self._header is not None:
            self._header += fresh
            size = header_size(self._header)
            if size is None:
                return NeedMore(bytes_to_come(self._header))
            fresh, self._header = bytes(self._header[size:]), None
        outcome = self._reader.feed(fresh)
        return self._hand_over(outcome) if isinstance(outcome, Protocol) else outcome

    def _hand_over(self, protocol: Protocol) -> ClientHello | Http1Request | Http2Request | NeedMore | Rejected:
        """The opening has shown the protocol: give what there is so far to its reader."""
        assert isinstance(self._reader, ProtocolSniffer)
        opening, self._protocol = self._reader, protocol
        reader: ClientHelloReader | Http1Reader | Http2Reader
        skipped = 0
        if protocol is Protocol.TLS:
            reader = ClientHelloReader(self._max_bytes)
        elif protocol is Protocol.HTTP2:
            reader = Http2Reader(self._max_bytes)
        else:
            reader = Http1Reader()
            skipped = opening.line_start
        self._reader = reader
        return reader.feed(bytes(opening.seen[skipped:]))

    def _answer(self, reason: Reason) -> Detection:
        self._decided = True
        return Detection(self._protocol, reason)

    def _check_undecided(self) -> None:
        if self._decided:
            raise ValueError("This detector has given its answer. Make a new one for the next connection.")
