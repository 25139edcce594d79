"""Detects the protocol of a connection (TLS, HTTP/1, HTTP/2 or none of them) and its names from the first bytes.

Usually the client's first segment has a complete ClientHello or HTTP/1 head. :func:`detect_at_once` parses that in one
step, without state. Everything else takes the slow path: :class:`datapath.protocols.sniff.ProtocolSniffer` identifies
the protocol, then that protocol's reader continues until it has the name. The :class:`Detector` counts the bytes
examined and those needed next, and enforces the limit. Both paths give the same results, and both skip a leading PROXY
protocol header. Clients without keep-alive repeat their requests, so :func:`detect_repeated` caches results of short
first bytes.

Invariants: bytes are not altered, and not kept for the caller; the result depends on the bytes alone, not on their
segmentation; once there is a result, no further bytes could change it; the total work is linear in the bytes, even when
they arrive one at a time.
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
"""Maximum bytes examined: a ClientHello of 64 KiB, and 1 KiB for its handshake header and up to 204 record headers."""


class Detection(NamedTuple):
    """The result of a detection.

    ``protocol`` is set if the bytes identified it, even if by ``reason`` the rest could not be read; names are set only
    if the reason is FOUND. ``sni`` and ``host`` are in comparable form (:mod:`traffic_policy.names`).
    """

    protocol: Protocol
    reason: Reason
    sni: str | None = None
    """Server name of the ClientHello; None when absent or no DNS name."""
    host: str | None = None
    """Host or :authority of the first request; None when absent or unusable."""
    alpn: tuple[str, ...] = ()
    """The offers of the ClientHello, in its order, decoded as latin-1."""
    ech: bool = False
    """The ClientHello has an encrypted_client_hello extension, so ``sni`` may be only the outer name."""


_ALIKE: Final = 512
"""Longest first bytes that are cached."""
_REMEMBERED: Final = 1024
"""Number of cached results."""

# A head may contain a password or a cookie, which must not stay in memory longer than its connection. So the key is a
# keyed digest (RFC 7693), against which guesses cannot be tested and for which collisions cannot be found.
_blank: Final = blake2b(digest_size=16, key=os.urandom(blake2b.MAX_KEY_SIZE))
_remembered: Final = BoundedMap[bytes, Detection](_REMEMBERED)


_NOT_THIS: Final = Detection(Protocol.OPAQUE, Reason.NOT_THIS)
_TLS, _HTTP1, _HTTP2, _FOUND = Protocol.TLS, Protocol.HTTP1, Protocol.HTTP2, Reason.FOUND


def detect_at_once(data: bytes) -> Detection | None:
    """The result for a connection that begins with ``data`` (at most ``MAX_BYTES``), in the usual cases.

    None: a :class:`Detector` is needed, and possibly more bytes.
    """
    if data[:2] == TLS_BEGINNING:
        hello = whole_client_hello(data)
        if hello is None:
            return None
        if isinstance(hello, Rejected):
            return Detection(_TLS, hello.reason)
        return Detection(_TLS, _FOUND, hello.sni, None, hello.alpn, hello.ech)
    if data[:1] in FIRST_BYTES and (size := header_size(data)) != 0:
        # At most one header: the detector rejects a second one.
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
    """:func:`detect_at_once` with a cache. Thread-safe."""
    # ClientHellos differ each time.
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
    """Detects the protocol of one connection. Feed it the client's bytes until it returns a result."""

    MAX_BYTES: ClassVar[int] = MAX_BYTES

    __slots__ = ("_decided", "_header", "_max_bytes", "_needed", "_protocol", "_reader", "_seen")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """``max_bytes`` is the maximum number of bytes examined. ValueError when it is below 1."""
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}. Let the detector see one byte at least.")
        self._max_bytes = max_bytes
        self._header: bytearray | None = bytearray()  # a possible PROXY header; None: past it
        self._reader: ProtocolSniffer | ClientHelloReader | Http1Reader | Http2Reader = ProtocolSniffer()
        self._protocol = Protocol.OPAQUE
        self._seen = 0
        self._needed = 1
        self._decided = False

    @property
    def needed(self) -> int:
        """The number of bytes, counted from the connection's first, that :meth:`feed` needs to make progress.

        With fewer it only stores them and returns None, so the caller may wait for that many.
        """
        return self._needed

    @property
    def seen(self) -> int:
        """Number of bytes fed and examined."""
        return self._seen

    @property
    def awaits_server(self) -> bool:
        """Whether an HTTP/2 client has sent whole frames but no request: it may wait for the server's SETTINGS."""
        return isinstance(self._reader, Http2Reader) and self._reader.between_frames

    def feed(self, data: bytes | bytearray | memoryview) -> Detection | None:
        """Process new bytes; returns None as long as more are needed.

        Raises ValueError after a result.
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
        """End detection by timeout, end of stream or a limit of the caller; returns what is known so far.

        Raises ValueError after a result.
        """
        self._check_undecided()
        return self._answer(reason)

    def _read(self, fresh: bytes) -> ClientHello | Http1Request | Http2Request | NeedMore | Rejected:
        """Feed new bytes to the current reader."""
        if self._header is not None:
            self._header += fresh
            size = header_size(self._header)
            if size is None:
                return NeedMore(bytes_to_come(self._header))
            fresh, self._header = bytes(self._header[size:]), None
        outcome = self._reader.feed(fresh)
        return self._hand_over(outcome) if isinstance(outcome, Protocol) else outcome

    def _hand_over(self, protocol: Protocol) -> ClientHello | Http1Request | Http2Request | NeedMore | Rejected:
        """The protocol is identified: feed the bytes so far to its reader."""
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
