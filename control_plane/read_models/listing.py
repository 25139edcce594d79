"""How a list is filtered, sorted and paged: one statement of SQL. Pure.

A page is found by its place in the order, not by counting: what is added or removed meanwhile neither repeats nor
hides anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.store.database import Value

_AFTER_ALL: Final = "\U0010ffff"
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on rows, with ``?`` for its values."""

    condition: str
    values: tuple[Value, ...]


def equal(column: str, value: Value) -> Filter:
    """Rows that have this value."""
    return Filter(f"{column} = ?", (value,))


def one_of(column: str, values: Sequence[Value]) -> Filter:
    """Rows that have one of these values; there may be none, and should not be many hundreds."""
    return Filter(f"{column} IN ({', '.join('?' * len(values))})" if values else "1 = 0", tuple(values))


def begins(column: str, prefix: str) -> Filter:
    """Rows whose value begins so. The column is compared byte by byte."""
    return Filter(f"({column} >= ? AND {column} < ?)", (prefix, prefix + _AFTER_ALL))


def between(column: str, least: int | None, end: int | None) -> list[Filter]:
    """Rows with at least ``least`` and less than ``end``."""
    found = [] if least is None else [Filter(f"{column} >= ?", (least,))]
    return found if end is None else [*found, Filter(f"{column} < ?", (end,))]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of rows of a table.

    ``sorts`` has the columns of each order by its name, together unlike in any two rows of the list; a ``-`` before the
    name means backwards. Those of ``numbers`` are integers, the others text.
    """

    table: str
    columns: tuple[str, ...]
    sorts: Mapping[str, tuple[str, ...]]
    numbers: frozenset[str] = frozenset()

    @property
    def orders(self) -> list[str]:
        """What can be asked for."""
        return [sign + name for name in self.sorts for sign in ("", "-")]

    def columns_of(self, order: str) -> tuple[str, ...]:
        """Those that an order is by."""
        return self.sorts[order.removeprefix("-")]

    def place(self, order: str, row: Sequence[Value]) -> tuple[Value, ...]:
        """Where in an order a row is."""
        return tuple(row[self.columns.index(column)] for column in self.columns_of(order))

    def is_place(self, order: str, values: Sequence[object]) -> bool:
        """Whether these can be a place in an order: a client has sent them."""
        by = self.columns_of(order)
        return len(values) == len(by) and all(
            isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
            if column in self.numbers
            else isinstance(value, str) and value.isprintable()
            for column, value in zip(by, values, strict=True)
        )

    def statement(
        self, tenant: str, filters: Sequence[Filter], order: str, after: Sequence[Value], limit: int
    ) -> tuple[str, list[Value]]:
        """At most ``limit`` rows that follow the place ``after``; all places follow an empty one."""
        by, sign = self.columns_of(order), "<" if order.startswith("-") else ">"
        chosen = [equal("tenant", tenant), *filters]
        if after:
            chosen.append(Filter(f"({', '.join(by)}) {sign} ({', '.join('?' * len(by))})", tuple(after)))
        return (
            (
                f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE {' AND '.join(f.condition for f in chosen)} "
                f"ORDER BY {_order(by, sign)} LIMIT ?"
            ),
            [*(value for each in chosen for value in each.values), limit],
        )

    def statement_with_positions(
        self, tenant: str, filters: Sequence[Filter], order: str, after: Sequence[Value], limit: int
    ) -> tuple[str, list[Value]]:
        """The same, seen at one moment with the end of the log, and how far of it the table knows.

        These two come first in each row. One row is there always, with nulls where there would be none.
        """
        inner, values = self.statement(tenant, filters, order, after, limit)
        columns = ", ".join(f"page.{column}" for column in self.columns)
        sign = "<" if order.startswith("-") else ">"
        by = _order([f"page.{column}" for column in self.columns_of(order)], sign)
        return (
            (
                f"SELECT heads.position, COALESCE(read_checkpoints.position, 0), {columns} FROM heads "
                "LEFT JOIN read_checkpoints ON read_checkpoints.tenant = heads.tenant "
                f"LEFT JOIN ({inner}) AS page ON TRUE WHERE heads.tenant = ? ORDER BY {by}"
            ),
            [*values, tenant],
        )


def _order(columns: Sequence[str], sign: str) -> str:
    return ", ".join(f"{column} {'DESC' if sign == '<' else 'ASC'}" for column in columns)
