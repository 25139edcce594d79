"""Where the answers to the requests of an HTTP/1 connection end, and whether one switches protocols.

Three things are asked of answers: how many have come whole, where in the server's stream the last of them ended, and
whether the connection has ceased to be HTTP/1. Bytes are not altered or held.

The end of an answer is determined by its head and its request (RFC 9112 6.3). Heads are read leniently, their lengths
strictly: after an answer whose end is in doubt, an answer without a request, or too many requests without answers,
:attr:`Http1Answers.over` is LOST, and no more answers are counted. A connection is switched only by 101 to a request
with Upgrade, or by 2xx to CONNECT. RFC 9110 9.3.6 forbids such a 2xx a length: with one it is an ordinary answer for a
server that knows no CONNECT (Go's net/http may send it), but a client could take it for a tunnel, so that is LOST too.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from datapath.protocols.http1_body import LENGTH, Http1Body, IrregularChunkError
from datapath.protocols.requests import Request

MAX_OUTSTANDING: Final = 1000
"""Requests whose answers are waited for. Clients that pipeline have some tens."""
_MAX_HEAD: Final = 256 << 10
"""Bytes of an answer's head; browsers and nginx take less."""
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])[ \r\n]")
_FRAMING: Final = re.compile(rb"\n(?:(?i:content-length)|((?i:transfer-encoding)))[ \t]*+:[ \t]*+([^\r\n]*+)")
"""The second group is the value, the first is empty for a length."""
_UNTIL_CLOSE: Final = 1 << 62


class Over(enum.Enum):
    """Why no more answers are counted."""

    SWITCHED = "switched"
    """The connection speaks another protocol now."""
    LOST = "lost"
    """The end of an answer is in doubt."""


class _LostError(Exception):
    """The end of an answer is in doubt."""


class Http1Answers:
    """Reads one connection's answers, from the server's first byte on.

    ``asked`` and ``whole`` count requests and whole answers. ``end`` is where in the stream the last whole one ended.
    ``over`` says why nothing is counted any more.
    """

    __slots__ = ("_at", "_body", "_expected", "_head", "_in_body", "asked", "end", "over", "whole")

    def __init__(self) -> None:
        self.asked = 0
        self.whole = 0
        self.end = 0
        self.over: Over | None = None
        self._at = 0  # bytes so far
        self._expected: list[Request] = []  # without an answer; a list, as a deque has 600 bytes when it is empty
        self._head = bytearray()  # the part of a head that has come
        self._body = Http1Body()
        self._in_body = False

    @property
    def left(self) -> int:
        """Bytes to come of which it is known that they belong to a body."""
        return self._body.left

    def expect(self, request: Request) -> bool:
        """A request is about to be sent. False: with this one there are too many to count answers any more."""
        if self.over is None:
            self.asked += 1
            self._expected.append(request)
            if len(self._expected) > MAX_OUTSTANDING:
                self.over = Over.LOST
                return False
        return True

    def skip(self, size: int) -> None:
        """So many bytes of a body, not more than ``left``, have passed."""
        self._body.pass_known(size)
        self._at += size
        if self._body.ended:
            self._answered()

    def feed(self, data: bytes | bytearray) -> None:
        """Read bytes of the server."""
        at = 0
        try:
            while at < len(data) and self.over is None:
                start = at
                at = self._body.skip(data, at) if self._in_body else self._read_head(data, at)
                self._at += at - start
                if self._in_body and self._body.ended:
                    self._answered()
        except (_LostError, IrregularChunkError):
            self.over = Over.LOST

    def _answered(self) -> None:
        self._in_body = False
        del self._expected[0]
        self.whole += 1
        self.end = self._at

    def _read_head(self, data: bytes | bytearray, at: int) -> int:
        """Read to the end of a head, or of the data; where that is."""
        had = len(self._head)
        if not had:
            blank = _BLANK_LINE.search(data, at)
            if blank is not None:
                self._begin(data, at, blank.end())
                return blank.end()
        self._head += data[at:]
        blank = _BLANK_LINE.search(self._head, max(0, had - 2)) if had else None
        if blank is None:
            if len(self._head) > _MAX_HEAD:
                raise _LostError
            return len(data)
        head = self._head[: blank.end()]
        self._head.clear()
        self._begin(head, 0, len(head))
        return at + len(head) - had

    def _begin(self, data: bytes | bytearray, at: int, end: int) -> None:
        """A head is whole: what follows it."""
        status = _STATUS.match(data, at)
        if status is None or not self._expected:
            raise _LostError
        code = status[1]
        request = self._expected[0]
        if code[:1] == b"1":
            if code == b"101":
                if not request.upgrade:
                    raise _LostError
                self.over = Over.SWITCHED
            return  # the answer is still to come
        fields = _FRAMING.findall(data, at, end)
        if request.method == b"CONNECT" and code[:1] == b"2":
            if fields:
                raise _LostError
            self.over = Over.SWITCHED
            return
        self._in_body = True
        if request.method == b"HEAD" or code in (b"204", b"304"):
            return
        if len(fields) > 1:
            raise _LostError
        if not fields:
            self._body.begin(_UNTIL_CLOSE)
            return
        coded, value = fields[0]
        value = value.rstrip(b" \t")
        if not coded:
            if not LENGTH.fullmatch(value):
                raise _LostError
            self._body.begin(int(value))
        elif value.lower().endswith(b"chunked"):
            self._body.begin_chunks()
        else:
            self._body.begin(_UNTIL_CLOSE)
