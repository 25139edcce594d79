"""The documents of ``/connections`` (:mod:`daemon.documents`). Pure."""

from __future__ import annotations

from daemon.admin_server import Query, QueryError
from daemon.documents.connections import Connection, Connections, Endpoint
from datapath.connection_list import DEFAULT_SHOWN, MOST_SHOWN, ConnectionPage, LiveConnection, Order


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
