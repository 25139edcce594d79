"""What an event is on the topic, and how a reader makes one log again of what may come twice. Pure.

The key is the tenant, so that a tenant's events are in one partition; the header ``id`` is TENANT/POSITION; the value
is JSON with the fields of an event as REST has them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Final

from control_plane.outbox.errors import GapError
from control_plane.store.chain import canonical
from control_plane.store.records import StoredEvent

_LARGEST: Final = 900_000
"""Bytes. Kafka refuses messages over 1 MiB unless it is told otherwise, and a refused one would hold up all others."""


@dataclass(frozen=True, slots=True)
class EventMessage:
    """A message of the topic."""

    key: bytes
    value: bytes
    id: bytes

    @classmethod
    def from_event(cls, event: StoredEvent) -> EventMessage:
        """One whose data is too large for Kafka has null for it: it is to be had by REST."""
        fields = asdict(event)
        value = canonical(fields).encode()
        if len(value) > _LARGEST:
            value = canonical({**fields, "data": None}).encode()
        return cls(event.tenant.encode(), value, f"{event.tenant}/{event.position}".encode())


@dataclass(slots=True)
class TopicReader:
    """Takes messages in the order of their partitions, and lets each event pass once."""

    positions: dict[str, int] = field(default_factory=dict)
    """The last one of each tenant. Keep them with what is made of the events, in one transaction."""

    def take(self, value: bytes) -> StoredEvent | None:
        """The event of a message; None: it was taken before. Raises :class:`GapError`.

        Of a tenant of which nothing is known the first may have any position: older ones may have been thrown away.
        """
        event = StoredEvent(**json.loads(value))
        last = self.positions.get(event.tenant)
        if last is not None:
            if event.position <= last:
                return None
            if event.position != last + 1:
                raise GapError(
                    f"The topic lacks events of {event.tenant} after {last}. Read them by "
                    f"GET /v1/tenants/{event.tenant}/events, and go on after them."
                )
        self.positions[event.tenant] = event.position
        return event
