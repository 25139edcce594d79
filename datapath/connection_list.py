"""Live connections for display: what is known of each, and which ones to show. Pure."""

from __future__ import annotations

import enum
import heapq
import math
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

DEFAULT_SHOWN: Final = 200
MOST_SHOWN: Final = 5000
"""Bounds the JSON to about 1 MB, and the time that it blocks the event loop."""

_T = TypeVar("_T")


class Order(enum.StrEnum):
    """Which connections are listed first."""

    NEWEST = "newest"
    LARGEST = "largest"
    """Those that have carried the most bytes, both ways together."""


class LiveConnection(NamedTuple):
    """A live connection. ``age`` in seconds; None is what the datapath does not know.

    ``direction`` is a :class:`traffic_policy.policy.Bound`. ``name`` is the TLS server name or the HTTP host. No class
    means that its first bytes have not arrived yet.
    """

    class_name: str | None
    client: tuple[str, int]
    destination: tuple[str, int]
    direction: str | None
    name: str | None
    protocol: str | None
    state: str
    age: float | None
    bytes_up: int | None
    bytes_down: int | None


class ConnectionPage(NamedTuple):
    """How many connections there are, and some of them, in order."""

    active: int
    connections: list[LiveConnection]


def select(
    many: Iterable[_T], limit: int, order: Order, *, begun: Callable[[_T], float], size: Callable[[_T], int]
) -> list[_T]:
    """The first ``limit`` items by ``order``, without sorting all. ``begun``: start times, on any one clock."""
    return heapq.nlargest(limit, many, key=size if order is Order.LARGEST else begun)


def select_connections(many: Iterable[LiveConnection], limit: int, order: Order) -> list[LiveConnection]:
    """:func:`select` for :class:`LiveConnection`; those of unknown age or size come last."""
    return select(many, limit, order, begun=_begun, size=_size)


def _begun(connection: LiveConnection) -> float:
    return -math.inf if connection.age is None else -connection.age


def _size(connection: LiveConnection) -> int:
    return (connection.bytes_up or 0) + (connection.bytes_down or 0)
