"""Finds the second ClientHello of a TLS client, which a HelloRetryRequest asks for (RFC 8446 4.1.4). Pure.

The second hello must repeat the first one but for a few extensions (RFC 8446 4.1.2). OpenSSL does not check that, and
serves the name of the second; Go and BoringSSL do check, or serve the first. So a client may name one server to us and
another one to OpenSSL, and the connection has to be in the stricter class of both.

Only the client's bytes are looked at. Between the hellos there may be ChangeCipherSpec, alerts, and early data that the
server skips (RFC 8446 4.2.10); everything else ends the search, which nearly always is the client's next record. The
search ends after :data:`MAX_BYTES`, too; OpenSSL, nginx and BoringSSL skip 16 KiB of early data.
"""

from __future__ import annotations

from typing import Final

from datapath.protocols.client_hello import (
    MESSAGE_HEADER,
    RECORD_HEADER,
    ClientHello,
    is_one_client_hello,
    parse_client_hello,
)
from datapath.protocols.proxy_header import FIRST_BYTES, header_size
from datapath.protocols.sniff import EARLY_DATA

MAX_BYTES: Final = 128 << 10
"""Bytes looked at: two of the largest hellos, or early data as far as servers skip it."""
_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA = 0x14, 0x15, 0x16, 0x17
_CLIENT_HELLO: Final = 0x01
_CCS: Final = b"\x14\x03\x03\x00\x01\x01"
_SEALED: Final = b"\x17"


GLANCE: Final = len(_CCS) + 1
"""Bytes that :func:`is_over` looks at."""


def is_over(data: bytes) -> bool:
    """Whether a client without early data that sends ``data`` behind its hello sends no second one: the usual cases."""
    if data[:1] == _CCS[:1]:
        return data.startswith(_CCS) and data[len(_CCS) : len(_CCS) + 1] == _SEALED
    return data[:1] == _SEALED


class SecondHello:
    """Watches the bytes of a client, from the beginning of its stream, which has a ClientHello there.

    ``behind``: from the first byte behind that hello instead, which has announced ``early_data`` or not.
    """

    __slots__ = ("_begun", "_early_data", "_header", "_kind", "_left", "_message", "_position", "done")

    def __init__(self, *, behind: bool = False, early_data: bool = False) -> None:
        self.done = False
        """Whether the search is over: :meth:`feed` is not to be called again."""
        self._begun = behind  # the first hello is behind us
        self._early_data = early_data
        self._position = 0
        self._header = bytearray()
        self._kind = 0
        self._left = 0  # of the record's fragment
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Look at new bytes; the second hello if they complete it. One that cannot be read counts as without names."""
        at = 0
        if not self._position and not self._begun:
            if is_one_client_hello(data):  # the usual case
                self._begun, self._early_data, self._position = True, EARLY_DATA in data, len(data)
                return None
            at = (header_size(data) or 0) if data[:1] in FIRST_BYTES else 0
        while at < len(data) and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                hello = self._fragment(piece)
                if hello is not None:
                    self.done = True
                    return hello
            else:
                piece = data[at : at + RECORD_HEADER - len(self._header)]
                self._header += piece
                if len(self._header) == RECORD_HEADER:
                    self._record()
            at += len(piece)
            self._position += len(piece)
        self.done = self.done or self._position >= MAX_BYTES
        return None

    def _record(self) -> None:
        self._kind, _, _, high, low = self._header
        self._left = high << 8 | low
        self._header.clear()
        between = self._kind in (_CHANGE_CIPHER_SPEC, _ALERT) or (self._kind == _APPLICATION_DATA and self._early_data)
        self.done = self._kind != _HANDSHAKE and not (self._begun and between)

    def _fragment(self, piece: bytes) -> ClientHello | None:
        if self._kind != _HANDSHAKE:
            return None
        message = self._message
        message += piece
        while message:
            if message[0] != _CLIENT_HELLO:
                self.done = True
                return None
            end = MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER], "big")
            if len(message) < MESSAGE_HEADER or len(message) < end:
                return None
            body = bytes(message[MESSAGE_HEADER:end])
            del message[:end]
            if self._begun:
                hello = parse_client_hello(body)
                return hello if isinstance(hello, ClientHello) else ClientHello()
            self._begun = True
            self._early_data = EARLY_DATA in body
        return None
