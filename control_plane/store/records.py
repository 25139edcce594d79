"""What is written to the event store, and what is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is to be stored; ``data`` is JSON's own."""

    subject: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """By whom, from where and why.

    ``key`` makes a repeated request one: it is the client's, made unique for its author. ``fingerprint`` tells a
    repetition from another request with the same key. ``at`` is in milliseconds of Unix time.
    """

    author: str
    at: int
    address: str = ""
    reason: str = ""
    key: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place in the log of its tenant. ``digest`` covers all else, and the digest before it."""

    tenant: str
    position: int
    subject: str
    kind: str
    data: Mapping[str, Any]
    author: str
    address: str
    reason: str
    at: int
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log of a tenant ends: position and digest of its last event."""

    position: int
    digest: str


START = Head(0, "")
"""Of a log without events."""
