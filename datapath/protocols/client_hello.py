"""Parser of the TLS ClientHello: server name, ALPN offers, and the presence of ECH. TLS 1.0 to 1.3 and later.

:class:`ClientHelloReader` reassembles the handshake message from its records, which may split it anywhere, and
:func:`parse_client_hello` parses the complete message. The reader works in steps (a record header, the message's
header, the fragments), each of a size known in advance, so that every byte is copied and examined once, however the
stream was segmented.

* A message may be spread over any number of records (RFC 8446 5.1); browsers with post-quantum key shares do it with
  segments, anti-censorship tools with one-byte records.
* Fragments of length zero are forbidden for handshake messages (RFC 8446 5.1), but OpenSSL skips some of them. So they
  are skipped here, too: a name that the server reads must not be missed.
* Other records in between are forbidden (RFC 8446 5.1).
* The record version is ignored: servers accept any {03,XX} there (RFC 5246 E.1, RFC 8446 5.1). So is the hello's
  legacy_version: an unknown version counts as the newest known one (RFC 5246 E.1), and OpenSSL accepts {24,00}.
* Unknown extensions, suites and versions are skipped, which is all that GREASE (RFC 8701) requires. GREASE values in
  the ALPN list are reported as offered.
* A list of names that cannot be parsed, or has a type twice, makes the hello malformed (RFC 6066 3). A name that is
  no DNS name (invalid bytes, empty) counts as absent: the server decides about it, and we cannot match it.
* RFC 6066 3 knows neither ports nor addresses. But nginx serves ``name:443`` as ``name``, so what is behind the first
  colon is left out; and clients send addresses, which are reported.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from datapath.protocols.result import NeedMore, Reason, Rejected
from traffic_policy.names import normalise_host

RECORD_HEADER: Final = 5
"""Bytes of a record header: type, version, length (RFC 8446 5.1)."""
MAX_FRAGMENT: Final = 1 << 14
"""Most bytes in the fragment of a plaintext record (RFC 8446 5.1)."""
MESSAGE_HEADER: Final = 4
"""Bytes of a handshake header: type and 24-bit length (RFC 8446 4)."""

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 0x01
_MAJOR: Final = 0x03
_FIXED: Final = 2 + 32
"""Bytes before the session id: legacy_version and random."""
_MAX_SESSION_ID: Final = 32
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
_HOST_NAME: Final = 0
# RFC 6066 3, and the underscore of service meshes: no brackets, no U-labels. Behind a colon may be what nginx takes
# there (ngx_http_validate_host() in src/http/ngx_http_request.c): all but controls, spaces and slashes.
_DNS_NAME: Final = re.compile(rb"([A-Za-z0-9_.-]{1,254})(?::[^\0- /\x7f]*)?")
_IPV6: Final = re.compile(rb"\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")


class ClientHello(NamedTuple):
    """The names in a ClientHello.

    ``sni`` is in comparable form (:mod:`traffic_policy.names`), None when absent or unusable. ``alpn`` is in the
    client's order, decoded as latin-1 since the names are bytes (RFC 7301 3.1). ``ech``: the encrypted_client_hello
    extension is present (RFC 9849), so ``sni`` may be the outer name. It may also be the true one: clients without a
    key send the extension with random content, and only the server can distinguish the two.
    """

    sni: str | None = None
    alpn: tuple[str, ...] = ()
    ech: bool = False


class _SyntaxError(Exception):
    """The message cannot be parsed. Internal: this module turns it into an outcome."""


class ClientHelloReader:
    """Extracts a ClientHello from the records at the start of a stream.

    ``limit`` is the maximum number of stream bytes of the hello, record headers included.
    """

    __slots__ = ("_fragment_left", "_header", "_limit", "_message", "_message_size", "_position")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._header = bytearray()
        self._message = bytearray()
        self._message_size = MESSAGE_HEADER  # until the header says how much follows it
        self._fragment_left = 0
        self._position = 0

    def feed(self, data: bytes) -> ClientHello | NeedMore | Rejected:
        """Process new bytes. Those after the hello are ignored. Must not be called after a final outcome."""
        at = 0
        verdict: ClientHello | Rejected | None
        while at < len(data):
            if not self._fragment_left:
                piece = data[at : at + RECORD_HEADER - len(self._header)]
                self._header += piece
                self._position += len(piece)
                verdict = self._check_record() if len(self._header) == RECORD_HEADER else None
            else:
                piece = data[at : at + min(self._fragment_left, self._message_size - len(self._message))]
                self._message += piece
                self._fragment_left -= len(piece)
                self._position += len(piece)
                verdict = self._check_message() if len(self._message) == self._message_size else None
            at += len(piece)
            if verdict is not None:
                return verdict
        return NeedMore(self._missing())

    def _missing(self) -> int:
        """Bytes to the end of the current step."""
        if not self._fragment_left:
            return RECORD_HEADER - len(self._header)
        message_left = self._message_size - len(self._message)
        # The end of a fragment decides nothing, the header behind it does.
        return message_left if message_left <= self._fragment_left else self._fragment_left + RECORD_HEADER

    def _check_record(self) -> Rejected | None:
        kind, major, _minor, high, low = self._header
        length = high << 8 | low
        self._header.clear()
        if kind != _HANDSHAKE:
            return _malformed(f"a record of type {kind} stands where the handshake should go on")
        if major != _MAJOR:
            return _malformed(f"a record has the major version {major}, not 3")
        if length > MAX_FRAGMENT:
            return _malformed(f"a handshake record has {length} bytes, more than {MAX_FRAGMENT}")
        self._fragment_left = length
        return self._check_limit()

    def _check_message(self) -> ClientHello | Rejected | None:
        if self._message_size == MESSAGE_HEADER:
            if self._message[0] != _CLIENT_HELLO:
                return _malformed(f"the first handshake message has type {self._message[0]}, not ClientHello (1)")
            self._message_size += int.from_bytes(self._message[1:MESSAGE_HEADER], "big")
            return (
                _malformed("the ClientHello is empty") if self._message_size == MESSAGE_HEADER else self._check_limit()
            )
        return parse_client_hello(bytes(self._message[MESSAGE_HEADER:]))

    def _check_limit(self) -> Rejected | None:
        """Reject a hello that cannot end within the limit as soon as that is known, before its bytes arrive.

        Called only at the end of a step: within one, the outcome would depend on the stream's segmentation.
        """
        if self._position + self._message_size - len(self._message) > self._limit:
            return Rejected(Reason.LIMIT, f"the ClientHello takes more than {self._limit} bytes")
        return None


def parse_client_hello(body: bytes) -> ClientHello | Rejected:
    """Parse the complete body of a ClientHello message (RFC 8446 4.1.2), without the handshake header."""
    try:
        return _client_hello(body)
    except _SyntaxError as error:
        return _malformed(str(error))


def whole_client_hello(data: bytes) -> ClientHello | Rejected | None:
    """The hello at the start of ``data`` if the first record is exactly one hello, the usual case.

    None in every other case, which :class:`ClientHelloReader` handles. ``data`` begins with the two bytes that identify
    TLS, and is not longer than the limit.
    """
    if len(data) < RECORD_HEADER + MESSAGE_HEADER or data[RECORD_HEADER] != _CLIENT_HELLO:
        return None
    length = data[3] << 8 | data[4]
    message_length = data[6] << 16 | data[7] << 8 | data[8]
    if not 0 < message_length == length - MESSAGE_HEADER or length > MAX_FRAGMENT:
        return None
    end = RECORD_HEADER + length
    return parse_client_hello(data[RECORD_HEADER + MESSAGE_HEADER : end]) if end <= len(data) else None


def is_one_client_hello(data: bytes) -> bool:
    """Whether ``data`` is one record with one ClientHello, and nothing else."""
    size = len(data) - RECORD_HEADER
    return (
        size > MESSAGE_HEADER
        and data[0] == _HANDSHAKE
        and data[RECORD_HEADER] == _CLIENT_HELLO
        and data[3] << 8 | data[4] == size
        and data[6] << 16 | data[7] << 8 | data[8] == size - MESSAGE_HEADER
    )


def _client_hello(body: bytes) -> ClientHello:
    # Without the _Reader below, for speed: this runs for every TLS connection.
    if len(body) < _FIXED + 1:
        raise _SyntaxError("the ClientHello is too short for its fixed part")
    if body[_FIXED] > _MAX_SESSION_ID:
        raise _SyntaxError(f"the session id is longer than {_MAX_SESSION_ID} bytes")
    at = _FIXED + 1 + body[_FIXED]
    size = int.from_bytes(body[at : at + 2], "big")
    if not size or size % 2:
        raise _SyntaxError("the list of cipher suites is empty or has an odd length")
    at += 2 + size
    if at >= len(body):
        raise _SyntaxError("the ClientHello ends within its cipher suites")
    if not body[at]:
        raise _SyntaxError("the list of compression methods is empty")
    at += 1 + body[at]
    if at == len(body):
        return ClientHello()  # before TLS 1.3 the extensions block may be missing altogether (RFC 5246 7.4.1.2)
    missing = at + 2 - len(body)
    if missing <= 0:
        missing += body[at] << 8 | body[at + 1]
    if missing > 0:
        raise _SyntaxError(f"the ClientHello ends {missing} bytes too early")
    if missing < 0:
        raise _SyntaxError("bytes follow the extensions")
    extensions = _extensions(body, at + 2)
    sni = extensions.get(_SERVER_NAME)
    alpn = extensions.get(_ALPN)
    return ClientHello(
        None if sni is None else (_known_name(sni) if len(sni) <= _KEPT_BYTES else _server_name(sni)),
        () if alpn is None else (_known_alpn(alpn) if len(alpn) <= _KEPT_BYTES else _alpn(alpn)),
        _ENCRYPTED_CLIENT_HELLO in extensions,
    )


def _extensions(body: bytes, at: int) -> dict[int, bytes]:
    """All extensions by type, from ``at`` to the end of ``body``.

    Duplicates are forbidden (RFC 8446 4.2), but OpenSSL rejects only those of types that it knows. So only duplicates
    of types that are read here make the hello malformed; of others the last one counts.
    """
    end = len(body)
    found: dict[int, bytes] = {}
    while at < end:
        if at + 4 > end:
            raise _SyntaxError("the extensions end within the header of one")
        kind = body[at] << 8 | body[at + 1]
        start = at + 4
        at = start + (body[at + 2] << 8 | body[at + 3])
        if at > end:
            raise _SyntaxError(f"the extension {kind} ends {at - end} bytes behind the ClientHello")
        if kind in found and kind in (_SERVER_NAME, _ALPN):
            raise _SyntaxError(f"the extension {kind} comes twice")
        found[kind] = body[start:at]
    return found


def _server_name(extension: bytes) -> str | None:
    """The host_name of a server_name extension (RFC 6066 3), if it is a usable DNS name or an address."""
    outer = _Reader(extension, "server_name")
    names = _Reader(outer.vector(2), "server_name list")
    if outer or not names:
        raise _SyntaxError("the server_name extension is empty or has bytes behind its list")
    found: dict[int, bytes] = {}
    while names:
        kind = names.integer(1)
        if kind in found:
            raise _SyntaxError(f"the server_name list has two names of the type {kind}")
        found[kind] = names.vector(2)
    name = found.get(_HOST_NAME, b"")
    if _IPV6.fullmatch(name) and (address := normalise_host(name.decode("ascii"))) is not None:
        return address
    match = _DNS_NAME.fullmatch(name)
    return None if match is None else normalise_host(match[1].decode("ascii"))


def _alpn(extension: bytes) -> tuple[str, ...]:
    """The offers of an ALPN extension (RFC 7301 3.1)."""
    outer = _Reader(extension, "ALPN")
    names = _Reader(outer.vector(2), "ALPN list")
    if outer or not names:
        raise _SyntaxError("the ALPN extension is empty or has bytes behind its list")
    offers: list[str] = []
    while names:
        offer = names.vector(1)
        if not offer:
            raise _SyntaxError("the ALPN list has an empty name")
        offers.append(offer.decode("latin-1"))
    return tuple(offers)


# Cached, since an application repeats the same few names.
_KEPT_BYTES: Final = 300
"""Longest extension that is cached: a host name and its framing."""
_known_name = lru_cache(maxsize=1024)(_server_name)
_known_alpn = lru_cache(maxsize=256)(_alpn)


class _Reader:
    """A cursor over the TLS presentation language (RFC 8446 3): integers and length-prefixed vectors."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _SyntaxError(f"the {self._what} ends {end - len(self._data)} bytes too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.integer(length_size))


def _malformed(why: str) -> Rejected:
    return Rejected(Reason.MALFORMED, why)
