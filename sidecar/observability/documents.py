"""The documents of the admin server (:mod:`daemon.documents`), from the sidecar's state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from daemon.admin_server import Query, QueryError
from daemon.documents.classes import Class, Classes, ConnectionCounts, ReceivedClasses
from daemon.documents.connections import Connection, Connections, Endpoint
from datapath.connection_list import DEFAULT_SHOWN, MOST_SHOWN, ConnectionPage, LiveConnection, Order
from datapath.shaping import ClassSnapshot, Received
from sidecar.observability.counters import ClassConnections
from traffic_policy.settings import Datapath
from traffic_policy.units import Rate

POLICY_SOURCES: Final = ("policy", "annotations", "shared_policy")
"""The settings that name the policy's sources."""


@dataclass(frozen=True, slots=True)
class Process:
    """The sidecar's own part of ``/classes``.

    ``read_at``: when the counters were read, in seconds of a monotonic clock; ``uptime`` is in seconds.
    """

    datapath: Datapath
    uptime: float
    workers: int
    read_at: float | None


# --- /classes --------------------------------------------------------------------------------------------------------


def classes_document(
    interface: str,
    total: Rate,
    snapshots: Iterable[ClassSnapshot],
    connections: Mapping[str, ClassConnections],
    process: Process,
    received: Received | None = None,
) -> Classes:
    """Limits, counters and connections of all classes in policy order, the default class last."""
    return Classes(
        interface=interface,
        total_bits_per_second=total.bits_per_second,
        datapath=process.datapath.value,
        workers=process.workers,
        uptime_seconds=round(process.uptime, 3),
        read_at_seconds=process.read_at,
        classes=tuple(_class(s, _counts(connections.get(s.name, ClassConnections()))) for s in snapshots),
        received=None if received is None else _received(received),
    )


def _received(received: Received) -> ReceivedClasses:
    return ReceivedClasses(
        device=received.device,
        names_told_by=received.ingress_classifier,
        total_bits_per_second=received.total.bits_per_second,
        classes=tuple(map(_class, received.classes)),
    )


def _counts(connections: ClassConnections) -> ConnectionCounts:
    return ConnectionCounts(connections.active, connections.total, dict(connections.by_protocol))


def _class(s: ClassSnapshot, connections: ConnectionCounts | None = None) -> Class:
    return Class(
        name=s.name,
        id=s.class_id,
        handle=str(s.handle),
        rate_bits_per_second=s.rate.bits_per_second,
        ceil_bits_per_second=s.ceil.bits_per_second,
        priority=s.priority,
        bytes=s.stats.bytes,
        packets=s.stats.packets,
        drops=s.stats.drops,
        overlimits=s.stats.overlimits,
        lended=s.stats.lended,
        borrowed=s.stats.borrowed,
        backlog_bytes=s.stats.backlog_bytes,
        backlog_packets=s.stats.backlog_packets,
        current_rate_bits_per_second=s.current_rate.bits_per_second,
        peak_rate_bits_per_second=s.peak_rate.bits_per_second,
        connections=connections,
    )


# --- /connections ----------------------------------------------------------------------------------------------------


def connections_asked(query: Query) -> tuple[int, Order]:
    """The requested number of connections, and their order. Raises
    :class:`~daemon.admin_server.QueryError`."""
    if unknown := query.keys() - {"limit", "order"}:
        raise QueryError(f"There is no {min(unknown)} to ask for. Ask with limit=NUMBER, and order=newest or largest.")
    limit, order = query.get("limit", str(DEFAULT_SHOWN)), query.get("order", Order.NEWEST)
    if not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= MOST_SHOWN:
        raise QueryError(f"limit={limit} is not a number of connections. Write one from 1 to {MOST_SHOWN}.")
    if order not in list(Order):
        raise QueryError(f"order={order} is not known. Write order=newest or order=largest.")
    return int(limit), Order(order)


def connections_document(shown: ConnectionPage, order: Order) -> Connections:
    """Some of the live connections, by ``order``."""
    return Connections(shown.active, order.value, tuple(map(_connection, shown.connections)))


def _connection(each: LiveConnection) -> Connection:
    return Connection(
        class_=each.class_name,
        client=Endpoint(*each.client),
        destination=Endpoint(*each.destination),
        direction=each.direction,
        name=each.name,
        protocol=each.protocol,
        state=each.state,
        age_seconds=None if each.age is None else round(each.age, 3),
        bytes_up=each.bytes_up,
        bytes_down=each.bytes_down,
    )
