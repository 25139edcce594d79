"""The head of the first HTTP/1 request, read by h11: which host is it for?

How it works: h11 keeps the bytes and searches for the end of the head from where it stopped before, so each byte is
searched once. It validates the head as a server would (one Host at most, and one at least in HTTP/1.1); a head that it
refuses is malformed here, and the connection goes to its server all the same.

The host is the authority of the target when the request has one, in absolute-form or, with CONNECT, authority-form;
Host is then ignored (RFC 9112 3.2.2, 3.2.3). Otherwise it is Host. HTTP/1.0 may have neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import h11

from sidecar.protocols.outcome import NeedMore, Reason, Rejected, host_name

# RFC 3986 3: scheme "://" authority, up to the path, query or fragment.
_ABSOLUTE_FORM: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


@dataclass(frozen=True, slots=True)
class Http1Request:
    """``host`` in comparable form (:mod:`tc_core.names`); None when absent or unusable."""

    host: str | None


class Http1Reader:
    """Reads the first head of a stream that begins with a request line (no empty lines before it).

    ``limit`` is the number of bytes that it will be fed at most.
    """

    __slots__ = ("_connection",)

    def __init__(self, limit: int) -> None:
        # h11 looks at its own limit only between pieces, so it would depend on how the stream was cut. Never reach it.
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)

    def feed(self, data: bytes) -> Http1Request | NeedMore | Rejected:
        """Take the new bytes. Those behind the head are passed over. Not to be called again after a final outcome."""
        if data:  # to h11, no bytes mean the end of the stream
            self._connection.receive_data(data)
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            return Rejected(Reason.MALFORMED, f"the HTTP/1 request is malformed: {error}")
        return Http1Request(_host(event)) if isinstance(event, h11.Request) else NeedMore()


def _host(request: h11.Request) -> str | None:
    if request.method == b"CONNECT":
        return host_name(request.target)
    absolute = _ABSOLUTE_FORM.match(request.target)
    if absolute is not None:
        return host_name(absolute[1].rpartition(b"@")[2])
    for name, value in request.headers:
        if name == b"host":
            return host_name(value)
    return None
