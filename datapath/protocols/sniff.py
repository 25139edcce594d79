"""Identifies the protocol by the first bytes, as early as is safe, to avoid waiting for the timeout.

==========================================  =============================================================
first bytes                                 protocol
==========================================  =============================================================
``16 03``                                   TLS: handshake record of version {03,XX} (RFC 5246 E.1)
``PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n``  HTTP/2 with prior knowledge (RFC 9113 3.4)
``METHOD SP TARGET SP HTTP/N.N [CR] LF``    HTTP/1 (RFC 9112 3); empty lines before it are skipped (2.2)
anything else                               none of them
==========================================  =============================================================

As servers do, it takes any number of empty lines, several spaces for one, spaces behind the version (nginx), versions
such as HTTP/1.10 (nginx) and HTTP/2.0 (Node.js).

Any token is a method, as RFC 9110 9.1 has it, so a text protocol looks like HTTP/1 at first. The shape of its first
line tells it apart, at the line's end at the latest: ``PING\\r\\n`` and ``SSH-2.0-x\\r\\n`` have no target,
``EHLO a\\r\\n`` no version, and RTSP and SIP no ``HTTP/`` where it should be. A binary protocol mostly fails at its
first or second byte. A list of known methods would decide a few bytes earlier and be wrong for the next WebDAV verb.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from datapath.protocols.result import NeedMore, Protocol, Reason, Rejected

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What an HTTP/2 client sends first (RFC 9113 3.4)."""

MAX_METHOD: Final = 32
"""Longest method, in bytes. The longest registered one, UPDATEREDIRECTREF, has 17."""

MAX_REQUEST_LINE: Final = 16 * 1024
"""Longest request line, in bytes. RFC 9112 3 asks for 8000 at least, common servers take 8 to 16 KiB."""

TLS_BEGINNING: Final = b"\x16\x03"
"""The first two bytes of a TLS handshake record: its type, and its major version."""
_TLS_HANDSHAKE, _TLS_MAJOR = TLS_BEGINNING
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*")
CAN_BEGIN_A_LINE: Final = frozenset(byte for byte in range(256) if _TOKEN.fullmatch(bytes([byte])) or byte in b"\r\n")
"""First bytes that do not rule out HTTP."""
# A target is free of whitespace and controls. Bytes above 7f are not allowed either, but that is for the reader of the
# head to say: the line is HTTP all the same.
_TARGET: Final = re.compile(rb"[^\x00-\x20\x7f]*")
_DIGITS: Final = b"0123456789"
_VERSION: Final = (b"H", b"T", b"T", b"P", b"/", _DIGITS, b".", _DIGITS)
"""What may stand at each place behind the target."""
_LINE_ENDS: Final = re.compile(rb"[\r\n]*")
_SPACES: Final = re.compile(rb" *")
_MINOR: Final = re.compile(rb"[0-9]*")

_NOT_TLS: Final = Rejected(Reason.NOT_THIS, "the byte 16 (hex) is not followed by the TLS major version 03")
_NO_REQUEST: Final = Rejected(Reason.NOT_THIS, "the first line is no HTTP/1 request line")
_LONG_LINE: Final = Rejected(Reason.LIMIT, f"the first line is longer than {MAX_REQUEST_LINE} bytes")


class _Phase(enum.Enum):
    FIRST = enum.auto()
    TLS = enum.auto()
    METHOD = enum.auto()
    TARGET = enum.auto()
    VERSION = enum.auto()
    MINOR = enum.auto()
    """Further digits."""
    SPACES = enum.auto()
    """Behind the version."""
    LINE_FEED = enum.auto()


class ProtocolSniffer:
    """Reads first bytes until they can belong to one protocol only. ``seen`` has them all, for the next reader."""

    __slots__ = ("_phase", "_scanned", "_start", "line_start", "seen")

    def __init__(self) -> None:
        self.seen = bytearray()
        self.line_start = 0
        """Bytes of empty lines before the request line, once that has begun."""
        self._phase = _Phase.FIRST
        self._start = 0  # where the current part of the line begins
        self._scanned = 0  # bytes that need not be looked at again

    def feed(self, data: bytes) -> Protocol | NeedMore | Rejected:
        """Take the new bytes. Not to be called again once the protocol is known or rejected."""
        seen = self.seen
        seen += data
        if not seen:
            return NeedMore()
        if seen[0] == HTTP2_PREFACE[0]:
            if seen.startswith(HTTP2_PREFACE):
                return Protocol.HTTP2
            if HTTP2_PREFACE.startswith(seen):
                return NeedMore()
        while (outcome := self._step()) is None:
            pass
        return outcome

    def _step(self) -> Protocol | NeedMore | Rejected | None:
        """Read one part of the opening; None when it is over and the next one begins."""
        match self._phase:
            case _Phase.FIRST:
                return self._first()
            case _Phase.TLS:
                if len(self.seen) < 2:
                    return NeedMore()
                return Protocol.TLS if self.seen[1] == _TLS_MAJOR else _NOT_TLS
            case _Phase.METHOD:
                return self._part(_TOKEN, MAX_METHOD, _NO_REQUEST, _Phase.TARGET)
            case _Phase.TARGET:
                self._skip_spaces()
                return self._part(_TARGET, MAX_REQUEST_LINE, _LONG_LINE, _Phase.VERSION)
            case _Phase.VERSION:
                self._skip_spaces()
                return self._version()
            case _Phase.MINOR:
                return self._skip(_MINOR, _Phase.SPACES)
            case _Phase.SPACES:
                return self._skip(_SPACES, _Phase.LINE_FEED)
            case _Phase.LINE_FEED:
                # RFC 9112 2.2: a lone LF may end a line, and servers take it.
                end = self.seen[self._scanned : self._scanned + 2]
                if end == b"\r":
                    return NeedMore()
                return Protocol.HTTP1 if end == b"\r\n" or end[:1] == b"\n" else _NO_REQUEST

    def _first(self) -> NeedMore | Rejected | None:
        if self.seen[0] == _TLS_HANDSHAKE:
            self._phase = _Phase.TLS
            return None
        outcome = self._skip(_LINE_ENDS, _Phase.METHOD)
        self.line_start = self._start = self._scanned
        return outcome

    def _skip(self, allowed: re.Pattern[bytes], then: _Phase) -> NeedMore | None:
        """Any number of allowed bytes, and then another one."""
        found = allowed.match(self.seen, self._scanned)
        assert found is not None  # the patterns match the empty string
        self._scanned = found.end()
        if self._scanned == len(self.seen):
            return NeedMore()
        self._phase = then
        return None

    def _skip_spaces(self) -> None:
        """Spaces before a part, of which there was one already."""
        if self._scanned == self._start:
            found = _SPACES.match(self.seen, self._scanned)
            assert found is not None
            self._start = self._scanned = found.end()

    def _part(
        self, allowed: re.Pattern[bytes], limit: int, too_long: Rejected, then: _Phase
    ) -> NeedMore | Rejected | None:
        """One or more allowed bytes, then a space."""
        found = allowed.match(self.seen, self._scanned)
        assert found is not None  # the patterns match the empty string
        self._scanned = end = found.end()
        if end - self._start > limit:
            return too_long
        if end == len(self.seen):
            return NeedMore()
        if end == self._start or self.seen[end] != 0x20:
            return _NO_REQUEST
        self._start = self._scanned = end + 1
        self._phase = then
        return None

    def _version(self) -> NeedMore | Rejected | None:
        while (place := self._scanned - self._start) < len(_VERSION):
            if self._scanned == len(self.seen):
                return NeedMore()
            if self.seen[self._scanned] not in _VERSION[place]:
                return _NO_REQUEST
            self._scanned += 1
        self._phase = _Phase.MINOR
        return None


# --- whether the client awaits an answer ------------------------------------------------------------------------------

_RECORD_HEADER: Final = 5
"""Bytes (RFC 8446 5.1)."""
EARLY_DATA: Final = b"\0\x2a\0\0"
"""The extension early_data of a ClientHello, which is empty (RFC 8446 4.2.10). Chance may bring the same bytes."""
_WITHOUT_BODY: Final = (b"GET ", b"HEAD ")
_BODY: Final = re.compile(rb"\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)
"""Fields that announce a body (RFC 9112 6); GET may have one."""


def awaits_answer(data: bytes | bytearray) -> bool:
    """Whether ``data``, the first bytes of a connection, ends with a request that has no body, or with a ClientHello.

    When in doubt it says no.
    """
    if data[:2] == TLS_BEGINNING:
        whole = len(data) > _RECORD_HEADER and len(data) == _RECORD_HEADER + (data[3] << 8 | data[4])
        return whole and EARLY_DATA not in data
    return data.startswith(_WITHOUT_BODY) and data.endswith(b"\r\n\r\n") and _BODY.search(data) is None
