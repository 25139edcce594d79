"""Live connections as a table, and as data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from daemon.documents.connections import Connection, Connections
from podlane.text_output import address_words
from podlane.top.readings import duration_words
from traffic_policy.units import ByteCount

TITLES: Final = ("class", "client", "server", "way", "name", "protocol", "state", "age", "up", "down")
RIGHT: Final = frozenset({"age", "up", "down"})
_NONE: Final = "–"
_WAYS: Final = {"outbound": "out", "inbound": "in"}
_AWAITED: Final = "(awaited)"
"""Shown until the class is chosen."""


def cells(each: Connection) -> tuple[str, ...]:
    """A connection's cells, in the order of :data:`TITLES`."""
    return (
        each.class_ or _AWAITED,
        address_words(each.client.address, each.client.port),
        address_words(each.destination.address, each.destination.port),
        _WAYS.get(each.direction or "", _NONE),
        each.name or _NONE,
        each.protocol or _NONE,
        each.state,
        _NONE if each.age_seconds is None else duration_words(each.age_seconds),
        _amount(each.bytes_up),
        _amount(each.bytes_down),
    )


def count_words(shown: Connections) -> str:
    """The number of connections, and the number shown."""
    return f"{shown.active} connection{'' if shown.active == 1 else 's'} alive, {len(shown.connections)} of them here"


def in_class(connections: Sequence[Connection], sort: str, *, reverse: bool) -> list[Connection]:
    """Sorted by one of :data:`TITLES`; ``""`` keeps the order of the source."""
    listed = list(connections)
    if sort:
        listed.sort(key=lambda each: _key(each, sort), reverse=reverse != (sort in RIGHT))
    elif reverse:
        listed.reverse()
    return listed


def _key(each: Connection, sort: str) -> tuple[float, str]:
    numbers = {"age": each.age_seconds, "up": each.bytes_up, "down": each.bytes_down}
    if sort in numbers:
        return numbers[sort] or 0, ""
    return 0, cells(each)[TITLES.index(sort)]


def document(each: Connection) -> dict[str, Any]:
    """A connection as data: ages in seconds."""
    return {
        "class": each.class_,
        "client": address_words(each.client.address, each.client.port),
        "server": address_words(each.destination.address, each.destination.port),
        "direction": each.direction,
        "name": each.name,
        "protocol": each.protocol,
        "state": each.state,
        "age_seconds": each.age_seconds,
        "bytes_up": each.bytes_up,
        "bytes_down": each.bytes_down,
    }


def _amount(count: int | None) -> str:
    return _NONE if count is None else ByteCount(count).human
