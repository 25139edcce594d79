"""Parser of the head of the first HTTP/1 request, for its host.

One regular expression matches a head (RFC 9112 2.1, 3, 5): request line, lines, blank line. All its repetitions are
possessive, so that it takes linear time for any input. A second expression finds the Host field.

**As lenient as servers.** If a server read a Host that is rejected here, a client could evade the class of its name. So
everything that nginx, Go or Node.js accept is accepted: several spaces in the request line, bytes above 7f in the
target, lines that are not fields, control characters, an invalid Content-Length or Transfer-Encoding (the end of the
request is determined, strictly, by :mod:`datapath.protocols.http1_requests`). Malformed is what they reject: NUL or a
lone CR, two hosts, none in HTTP/1.1, a space before the colon of Host. Lines may end in a bare LF and fields may be
folded. Whatever h11 accepts is accepted with the same host, which a property test checks.

The host is the authority of the target if the request has one, in absolute-form or, with CONNECT, authority-form; Host
is then ignored (RFC 9112 3.2.2, 3.2.3). Otherwise it is Host. HTTP/1.0 may have neither.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from datapath.protocols.result import NeedMore, Reason, Rejected, host_name
from datapath.protocols.sniff import MAX_METHOD, MAX_REQUEST_LINE

_REST: Final = rb"[^\x00\r\n]*+"
"""The rest of a line. RFC 9110 5.5 rejects CR, LF and NUL; some server accepts each other byte."""
_FOLDED_REST: Final = _REST + rb"(?:\r?\n[ \t]" + _REST + rb")*+"
"""Obsolete line folding (RFC 9112 5.2)."""
_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"

_HEAD: Final = re.compile(
    rb"(?!PRI \* HTTP/2)(%(token)s{1,%(max_method)d}+) ++([^\x00-\x20\x7f]++) ++HTTP/([0-9]\.[0-9]++) *+\r?\n"
    rb"((?:[^\x00\r\n \t]%(rest)s\r?\n)*+)\r?\n" % {b"token": _TOKEN, b"max_method": MAX_METHOD, b"rest": _FOLDED_REST}
)
"""A whole head: method, target, version, lines. HTTP/2 begins with a line of that form (RFC 9113 3.4)."""
_HOST: Final = re.compile(rb"\n(?i:host):(%b)" % _FOLDED_REST)
"""The Host field, including the line feed before it."""
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
# RFC 3986 3: scheme "://" authority, up to the path, query or fragment.
_ABSOLUTE_FORM: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


class Http1Request(NamedTuple):
    """``host`` in comparable form (:mod:`traffic_policy.names`); None when absent or unusable."""

    host: str | None


_MALFORMED: Final = Rejected(Reason.MALFORMED, "the HTTP/1 head is none that a server would accept")


def read_head(data: bytes) -> Http1Request | Rejected | None:
    """The request at the start of ``data``, which may continue after the head.

    None when ``data`` does not begin with a complete, well-formed head: it may be incomplete, malformed, or not HTTP.
    Rejected when the number of hosts is invalid.
    """
    head = _HEAD.match(data)
    if head is None:
        return None
    method, target, version = head.group(1, 2, 3)
    if len(target) > MAX_REQUEST_LINE:
        return None
    hosts = _HOST.findall(data, head.start(4) - 1, head.end(4))
    if len(hosts) != 1 and (hosts or version == b"1.1"):
        return _MALFORMED  # RFC 9112 3.2: one Host at most, and in HTTP/1.1 one at least
    if method == b"CONNECT":
        return Http1Request(host_name(target))
    if target[0] != 0x2F:  # "/" is the usual case
        absolute = _ABSOLUTE_FORM.match(target)
        if absolute is not None:
            return Http1Request(host_name(absolute[1].rpartition(b"@")[2]))
    return Http1Request(host_name(_unfolded(hosts[0])) if hosts else None)


def _unfolded(value: bytes) -> bytes:
    """A field's value without folds (RFC 9112 5.2: a fold stands for a space) and without the spaces around it."""
    if b"\n" in value:
        value = _FOLD.sub(b" ", value)
    return value.strip(b" \t")


class Http1Reader:
    """Reads the first head of a stream that begins with a request line (no empty lines before it), in pieces.

    Each byte is searched once for the end of the head. The caller bounds the number of bytes.
    """

    __slots__ = ("_head", "_searched")

    def __init__(self) -> None:
        self._head = bytearray()
        self._searched = 0  # no blank line ends before this place

    def feed(self, data: bytes) -> Http1Request | NeedMore | Rejected:
        """Process new bytes. Those after the head are ignored. Must not be called after a final outcome."""
        self._head += data
        blank = _BLANK_LINE.search(self._head, self._searched)
        if blank is None:
            self._searched = max(0, len(self._head) - 2)
            return NeedMore()
        return read_head(bytes(self._head[: blank.end()])) or _MALFORMED
