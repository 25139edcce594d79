"""The head of the first HTTP/1 request: which host is it for?

How it works: one regular expression says what a head is (RFC 9112 2.1, 3, 5), as strictly as a careful server: request
line, field lines, blank line. All its repetitions are possessive, so it takes time in proportion to the bytes whatever
they are. What it accepts is searched for the three fields that decide, or that a request smuggler would play with. A
head that is refused is malformed here, and the connection goes to its server all the same.

The verdicts are exactly those of h11, whose reader this replaces: h11 took 60 us per connection, this takes 3. A
property test compares them. Lines may end in a bare LF and fields may be folded, as there: servers read such heads, so
whoever refused them would only lose sight of the host that is meant.

The host is the authority of the target when the request has one, in absolute-form or, with CONNECT, authority-form;
Host is then ignored (RFC 9112 3.2.2, 3.2.3). Otherwise it is Host. HTTP/1.0 may have neither.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sidecar.protocols.opening import MAX_METHOD, MAX_REQUEST_LINE
from sidecar.protocols.outcome import NeedMore, Reason, Rejected, host_name

_VALUE: Final = rb"[^\x00\n\v\f\r]*+"
"""What a field may hold. RFC 9110 5.5 wants CR, LF and NUL refused; other controls pass, as they do with h11."""
_FOLDED_VALUE: Final = _VALUE + rb"(?:\r?\n[ \t]" + _VALUE + rb")*+"
"""Obsolete line folding (RFC 9112 5.2)."""
_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"

_HEAD: Final = re.compile(
    rb"(%(token)s{1,%(max_method)d}+) ([\x21-\x7e]++) HTTP/1\.([0-9])\r?\n((?:%(token)s++:%(value)s\r?\n)*+)\r?\n"
    % {b"token": _TOKEN, b"max_method": MAX_METHOD, b"value": _FOLDED_VALUE}
)
"""A whole head: method, target, minor version, field lines. No space before a colon (RFC 9112 5.1)."""
_DECIDING: Final = re.compile(rb"\n(?i:(host)|(content-length)|transfer-encoding):(%b)" % _FOLDED_VALUE)
"""A field that decides, from the line feed before it on."""
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_DIGITS: Final = re.compile(rb"[0-9]{1,20}")
"""A Content-Length; twenty digits are enough for 2**64 bytes."""
# RFC 3986 3: scheme "://" authority, up to the path, query or fragment.
_ABSOLUTE_FORM: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


class Http1Request(NamedTuple):
    """``host`` in comparable form (:mod:`tc_core.names`); None when absent or unusable."""

    host: str | None


_MALFORMED: Final = Rejected(Reason.MALFORMED, "the HTTP/1 head is none that a server would accept")


def read_head(data: bytes) -> Http1Request | Rejected | None:
    """The request at the start of ``data``, which may go on behind its head.

    None when ``data`` does not begin with a whole, well-formed head: it may be incomplete, malformed, or not HTTP.
    Rejected when what the head says contradicts itself.
    """
    head = _HEAD.match(data)
    if head is None:
        return None
    method, target, minor = head.group(1, 2, 3)
    if len(target) > MAX_REQUEST_LINE:
        return None
    fields = _DECIDING.findall(data, head.start(4) - 1, head.end(4))
    host: bytes | Rejected | None
    if len(fields) == 1 and fields[0][0]:
        host = _unfolded(fields[0][2])  # only a Host, as nearly always
    else:
        host = _weigh(fields, minor)
        if isinstance(host, Rejected):
            return host
    if method == b"CONNECT":
        return Http1Request(host_name(target))
    if target[0] != 0x2F:  # "/", as nearly always
        absolute = _ABSOLUTE_FORM.match(target)
        if absolute is not None:
            return Http1Request(host_name(absolute[1].rpartition(b"@")[2]))
    return Http1Request(None if host is None else host_name(host))


def _weigh(fields: list[tuple[bytes, bytes, bytes]], minor: bytes) -> bytes | Rejected | None:
    """The value of the Host field, None without one; Rejected when the fields contradict each other or make no sense.

    ``fields`` are tuples with the name in the place that says which it is (:data:`_DECIDING`), and the value.
    """
    hosts: list[bytes] = []
    lengths: set[bytes] = set()
    codings = 0
    for is_host, is_length, folded in fields:
        value = _unfolded(folded)
        if is_host:
            hosts.append(value)
        elif is_length:
            lengths.update(length.strip() for length in value.split(b","))
        elif value.lower() == b"chunked":
            codings += 1
        else:
            return _MALFORMED
    if len(hosts) != 1 and (hosts or minor == b"1"):
        return _MALFORMED  # RFC 9112 3.2: one Host at most, and in HTTP/1.1 one at least
    if codings > 1 or len(lengths) > 1 or not all(map(_DIGITS.fullmatch, lengths)):
        return _MALFORMED  # RFC 9112 6: where the request ends must be beyond doubt
    return hosts[0] if hosts else None


def _unfolded(value: bytes) -> bytes:
    """A field's value without folds (RFC 9112 5.2: a fold stands for a space) and without the spaces around it."""
    if b"\n" in value:
        value = _FOLD.sub(b" ", value)
    return value.strip(b" \t")


class Http1Reader:
    """Reads the first head of a stream that begins with a request line (no empty lines before it), in pieces.

    Each byte is searched once for the end of the head. How many bytes that may take is for the caller to bound.
    """

    __slots__ = ("_head", "_searched")

    def __init__(self) -> None:
        self._head = bytearray()
        self._searched = 0  # no blank line ends before this place

    def feed(self, data: bytes) -> Http1Request | NeedMore | Rejected:
        """Take the new bytes. Those behind the head are passed over. Not to be called again after a final outcome."""
        self._head += data
        blank = _BLANK_LINE.search(self._head, self._searched)
        if blank is None:
            self._searched = max(0, len(self._head) - 2)
            return NeedMore()
        return read_head(bytes(self._head[: blank.end()])) or _MALFORMED
