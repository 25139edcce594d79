"""The columns of the table of classes: their cells, sort keys, and the order of omission on narrow terminals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from podlane.top.rates import RateRow
from traffic_policy.units import ByteCount

BAR_CELLS: Final = 10
SPARK_CELLS: Final = 20
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_NONE: Final = "–"
_SHORT_NAME: Final = 28
_GAP: Final = 2
"""Space between two columns of the table, in characters."""

Value = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``key`` is its name for ``--sort``; ``value`` is the sort key, ``text`` the cell."""

    key: str
    title: str
    text: Callable[[RateRow], str]
    value: Callable[[RateRow], Value]
    is_left: bool = False


def compact(number: float, unit: str) -> str:
    """Three digits with a decimal prefix: ``18.3Mbit``, ``950bit``, ``1.2k``."""
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g}{prefix}{unit}"
    return f"{number:.3g}{unit}"


def percent(share: float | None) -> str:
    """A share in whole percent."""
    return _NONE if share is None else f"{share:.0%}"


def short_time(seconds: float) -> str:
    """``<1ms``, ``38ms``, ``1.2s``."""
    if seconds >= 0.9995:
        return f"{seconds:.2g}s" if seconds < 10 else f"{seconds:.0f}s"
    return "<1ms" if seconds < 0.001 else f"{seconds * 1000:.0f}ms"


def bar(share: float | None, cells: int = BAR_CELLS) -> str:
    """A bar that is full at 1."""
    filled = 0 if share is None else min(cells, round(share * cells))
    return "█" * filled + "░" * (cells - filled)


def spark(values: Sequence[float | None], cells: int, top: float) -> str:
    """A line of ``cells`` characters, whose highest stands for ``top``; blank if unknown or zero."""
    size = max(1, math.ceil(len(values) / cells))
    groups = [values[max(0, end - size) : end] for end in range(len(values), 0, -size)][::-1]
    return "".join(_level([v for v in group if v is not None], top) for group in groups).rjust(cells)


def _level(values: Sequence[float], top: float) -> str:
    if not values or not any(values) or top <= 0:
        return " "
    mean = sum(values) / len(values)
    return _SPARKS[min(len(_SPARKS) - 1, int(mean / top * len(_SPARKS)))]


def _backlog(row: RateRow) -> str:
    waiting = row.reading.stats.backlog_bytes
    if not waiting:
        return "0"
    time = "" if row.backlog_seconds is None else f" {short_time(row.backlog_seconds)}"
    return f"{ByteCount(waiting).human}{time}"


def highest(row: RateRow) -> int:
    """The rate in bit/s of the highest character of a row's last minute: the ceil, or the highest rate."""
    if row.reading.ceil is not None:
        return row.reading.ceil.bits_per_second
    return max((rate for rate in row.minute if rate is not None), default=0)


def _number(value: float | None) -> str:
    return _NONE if value is None else compact(round(value, 1), "")


def middle(text: str, cells: int) -> str:
    """A text cut in the middle: names of Pods differ at their ends."""
    if len(text) <= cells:
        return text
    end = (cells - 1) // 2
    return f"{text[: cells - 1 - end]}…{text[len(text) - end :]}"


MINUTE: Final = "minute"
WORKLOAD: Final = Column(
    "workload", "workload", lambda r: r.reading.workload, lambda r: r.reading.workload or None, is_left=True
)
NAME: Final = Column("name", "class", lambda r: r.name, lambda r: r.name, is_left=True)
COLUMNS: Final = (
    WORKLOAD,
    NAME,
    Column("prio", "prio", lambda r: _whole(r.reading.priority), lambda r: r.reading.priority),
    Column(
        "rate", "rate", lambda r: _NONE if r.reading.rate is None else compact(r.reading.rate.bits_per_second, "bit"),
        lambda r: None if r.reading.rate is None else r.reading.rate.bits_per_second,
    ),
    Column(
        "ceil", "ceil", lambda r: _NONE if r.reading.ceil is None else compact(r.reading.ceil.bits_per_second, "bit"),
        lambda r: None if r.reading.ceil is None else r.reading.ceil.bits_per_second,
    ),
    Column("now", "now", lambda r: compact(r.now.bits_per_second, "bit"), lambda r: r.now.bits_per_second),
    Column("use", "of ceil", lambda r: f"{bar(r.of_ceil)} {percent(r.of_ceil):>4}", lambda r: r.of_ceil),
    Column("borrowed", "borrowed", lambda r: percent(r.borrowed), lambda r: r.borrowed),
    Column("packets", "pkt/s", lambda r: _number(r.packets), lambda r: r.packets),
    Column("drops", "drop/s", lambda r: _number(r.drops), lambda r: r.drops),
    Column("backlog", "backlog", _backlog, lambda r: r.reading.stats.backlog_bytes),
    Column("throttled", "throttled", lambda r: percent(r.throttled), lambda r: r.throttled),
    Column("conns", "conns", lambda r: _whole(r.reading.active), lambda r: r.reading.active),
    Column("new", "new/s", lambda r: _number(r.opened), lambda r: r.opened),
    Column(
        MINUTE, "last 60 s", lambda r: spark(r.minute, SPARK_CELLS, highest(r)), lambda r: r.now.bits_per_second,
        is_left=True,
    ),
)  # fmt: skip
_GO_FIRST: Final = (MINUTE, "packets", "prio", "new", "borrowed", "rate", "conns", "drops", "throttled", "backlog")
"""Columns omitted one after another, until the rest fits."""
ORDER: Final = "policy"
"""Not sorted: in the policy's order."""
SORTS: Final = (ORDER, *(column.key for column in COLUMNS if column.key != MINUTE))


def _whole(value: int | None) -> str:
    return _NONE if value is None else str(value)


def arranged(rows: Iterable[RateRow], sort: str, *, reverse: bool) -> list[RateRow]:
    """The rows by a column: texts and priorities ascending, other numbers descending, unknown values last."""
    listed = list(rows)
    if sort == ORDER:
        return listed[::-1] if reverse else listed
    column = next(each for each in COLUMNS if each.key == sort)
    known = [row for row in listed if column.value(row) is not None]
    falls = sort not in ("workload", "name", "prio")
    # A stable sort, so that equal rows keep the policy's order also when descending.
    known.sort(key=lambda row: _key(column.value(row)), reverse=falls != reverse)
    return known + [row for row in listed if column.value(row) is None]


def _key(value: Value) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (float(value or 0), "")


def fitting(rows: Sequence[RateRow], width: int) -> list[Column]:
    """The columns that fit into ``width`` characters, without those that have no values.

    Names of workloads are shortened before columns are omitted, and further where that does not suffice.
    """
    columns = [c for c in COLUMNS if c is NAME or any(c.value(row) is not None for row in rows)]
    widths = {c.key: max(len(c.title), *(len(c.text(row)) for row in rows)) for c in columns}
    spare = max(0, widths.get(WORKLOAD.key, 0) - _SHORT_NAME)

    def excess() -> int:
        return sum(widths[column.key] for column in columns) + _GAP * (len(columns) - 1) - width

    for key in _GO_FIRST:
        if excess() <= spare:
            break
        columns = [column for column in columns if column.key != key]
    if columns[0] is WORKLOAD and (over := excess()) > 0:
        cells = max(len(WORKLOAD.title), widths[WORKLOAD.key] - over)
        columns[0] = replace(WORKLOAD, text=lambda row: middle(row.reading.workload, cells))
    return columns
