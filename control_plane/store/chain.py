"""The chain of digests in a tenant's log. Pure, so that whoever has the events can check them.

A digest is the SHA-256, in hexadecimal, of the digest before it, a line feed, and a JSON list of what the event is.
An event that is changed, left out, put in or moved makes a digest wrong. Of events that are missing at the end only
their known digest tells: note :attr:`Head.digest` outside from time to time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from control_plane.store.errors import ChainError
from control_plane.store.records import START, Head, StoredEvent


def canonical(data: object) -> str:
    """JSON text, the same for equal data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def digest(previous: str, event: StoredEvent) -> str:
    """The digest of an event that follows one with the digest ``previous``. Its own is not looked at."""
    content = [event.tenant, event.position, event.subject, event.kind, event.data]
    content += [event.author, event.address, event.reason, event.at]
    return hashlib.sha256(f"{previous}\n{canonical(content)}".encode()).hexdigest()


def follow(tenant: str, head: Head, event: StoredEvent) -> Head:
    """Where the log of a tenant ends with the event that follows ``head``. Raises :class:`ChainError`."""
    expected = head.position + 1
    if event.position != expected:
        raise ChainError(tenant, expected, f"event {expected} is missing.")
    if event.tenant != tenant or event.digest != digest(head.digest, event):
        raise ChainError(tenant, expected, f"event {expected} is not as it was written.")
    return Head(event.position, event.digest)


def verify(tenant: str, events: Iterable[StoredEvent], end: Head | None = None) -> Head:
    """Where the log of these events ends. Raises :class:`ChainError`, also if that is not ``end``."""
    head = START
    for event in events:
        head = follow(tenant, head, event)
    if end is not None and head != end:
        raise ChainError(tenant, head.position + 1, f"it ends at {head.position}, but should end at {end.position}.")
    return head
