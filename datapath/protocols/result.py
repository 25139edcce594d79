"""Outcome types shared by the readers of this package.

A reader is fed the new bytes of a stream, in pieces of any size, and returns one of three outcomes: a value,
:class:`NeedMore`, or :class:`Rejected`. Needing more is a regular outcome, not an exception. The outcome depends on the
bytes alone, never on their segmentation.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from traffic_policy.names import normalise_host

_MAX_NAME_BYTES: Final = 1024
"""Longest text taken for a host name. DNS allows 253 characters as A-labels, which as U-labels in UTF-8 and with a port
are still fewer bytes; whatever is longer is no name and is not worth normalising (or caching)."""


class Protocol(enum.StrEnum):
    """The protocol of a connection, by its first bytes."""

    TLS = "tls"
    HTTP1 = "http1"
    HTTP2 = "http2"
    QUIC = "quic"
    OPAQUE = "opaque"
    """None of these, or not enough bytes to tell."""


class Reason(enum.StrEnum):
    """Why a detection ended."""

    FOUND = "found"
    NOT_THIS = "no-match"
    """The bytes begin none of the protocols."""
    TIMEOUT = "timeout"
    EOF = "eof"
    """The client half-closed before anything was decided."""
    LIMIT = "limit"
    """Deciding would have taken more bytes than are looked at."""
    MALFORMED = "malformed"
    """The protocol is clear, but what it says is not valid."""
    MISSED = "missed"
    """The first bytes were not seen: the classifier was not running, or its queue was full."""
    CONTRADICTED = "contradicted"
    """Other bytes came in place of the first ones, or urgent ones among them: what the server reads is not known."""


@dataclass(frozen=True, slots=True)
class NeedMore:
    """At least ``more`` further bytes (1 or more) are needed."""

    more: int = 1


@dataclass(frozen=True, slots=True)
class Rejected:
    """Final failure: ``reason`` for programs, ``why`` for people."""

    reason: Reason
    why: str


def host_name(field: bytes) -> str | None:
    """The comparable host name in a Host field, an ``:authority`` or an authority; None when there is no usable one.

    Raw UTF-8, which RFC 3986 does not allow but clients send, counts as an international name.
    """
    return None if len(field) > _MAX_NAME_BYTES else _host_name(field)


@lru_cache(maxsize=1024)
def _host_name(field: bytes) -> str | None:
    """Cached, what is no name too: an application says the same few names again and again."""
    try:
        text = field.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if text != text.strip():
        return None  # a space that servers do not take away, such as U+00A0
    if not text.startswith("["):
        name, colon, port = text.partition(":")
        # Servers look at the name, whatever stands for a port. With another colon it may be an IPv6 address.
        text = name if colon and ":" not in port else text
    return normalise_host(text)
