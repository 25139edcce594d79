"""The display of a frame: a title, the table of classes or of connections, a line of help. Pure, using rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daemon.documents.connections import Connection, Connections
from datapath.connection_list import Order
from podlane.top.columns import (
    COLUMNS,
    MINUTE,
    NAME,
    ORDER,
    Column,
    arranged,
    bar,
    compact,
    fitting,
    highest,
    percent,
    spark,
)
from podlane.top.connections import RIGHT, TITLES, cells, count_words, in_class
from podlane.top.rates import Frame, RateRow
from podlane.top.view import HELP, View

_MINUTE_CELLS: Final = 60
_NEAR: Final = 0.9
"""Fraction of the ceil from which on a class is close to its limit."""
_OVER: Final = 1.02
"""... and from which on it exceeds the limit, beyond bursts and late readings."""
_AROUND: Final = 6
"""Screen lines outside the table's body: title, last minute, state, headings, totals, keys."""
_KEYS: Final = "q quit  s sort  r reverse  p pause  c {other}  ? help"


def classes_picture(
    source: str, frame: Frame, view: View, width: int, height: int, problem: str = ""
) -> RenderableType:
    """The screen with the classes, for this size."""
    rows = arranged(frame.rows, view.sort, reverse=view.reverse)
    sort = "in the policy's order" if view.sort == ORDER else f"sorted by {_title(view.sort)}"
    shown = rows[view.top : _end(view, height)]
    # Of all rows, so that scrolling does not move columns.
    body = class_table(shown, frame.totals, fitting((*rows, frame.totals), width))
    footer = _footer(view, "connections", sort, len(rows), _end(view, height), width)
    return Group(*_head(source, frame, view, width, problem), body, footer)


def connections_picture(
    source: str, frame: Frame, shown: Connections, view: View, width: int, height: int, problem: str = ""
) -> RenderableType:
    """The screen with the live connections, for this size."""
    listed = in_class(shown.connections, view.connection_sort, reverse=view.reverse)
    first = "the newest first" if view.order is Order.NEWEST else "the largest first"
    sort = f"sorted by {view.connection_sort}" if view.connection_sort else first
    body = connection_table(listed[view.top : _end(view, height)])
    footer = _footer(view, "classes", sort, len(listed), _end(view, height), width)
    return Group(*_head(source, frame, view, width, problem), body, Text(count_words(shown), style="bold"), footer)


def _end(view: View, height: int) -> int:
    """The index after the last line that fits."""
    return view.top + max(1, height - _AROUND)


def _head(source: str, frame: Frame, view: View, width: int, problem: str) -> tuple[Text, ...]:
    state = _state(view, problem, frame.reading.notes, width)
    return title(source, frame, width), last_minute(frame.totals, width), state


def help_picture() -> RenderableType:
    """Explains the keys and the columns."""
    parts: list[RenderableType] = []
    for heading, meanings in (("Keys", HELP), ("Columns", MEANINGS)):
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
        for name, words in meanings:
            table.add_row(Text(name, style="bold"), words)
        parts += [Text(heading, style="bold cyan"), table, Text()]
    return Group(*parts[:-1])


MEANINGS: Final = (
    ("workload", "a Pod, or a network namespace, that the node agent looks after"),
    ("rate, ceil", "what the class is guaranteed, and the most it may borrow up to"),
    ("now", "the mean of the last interval, link headers included"),
    ("borrowed", "packets sent in the interval that the class's own rate did not cover"),
    ("backlog", "bytes that wait now, and how long they take at the class's rate"),
    ("throttled", "share of the last 10 s in which packets of the class were waiting"),
    ("conns, new/s", "connections that the sidecar gave the class: alive, and new ones"),
)


def title(source: str, frame: Frame, width: int) -> Text:
    """The source, and the share of its total in use."""
    reading, totals = frame.reading, frame.totals
    line = Text.assemble((reading.interface, "bold cyan"), "  ", source)
    if reading.total is not None:
        line.append(f"  total {compact(reading.total.bits_per_second, 'bit')}")
        line.append(f"  used {percent(totals.of_ceil)} ")
        line.append(bar(totals.of_ceil), style=_colour(totals.of_ceil))
    for detail in reading.details:
        line.append(f"  {detail}", style="dim")
    line.truncate(width, overflow="ellipsis")
    return line


def last_minute(totals: RateRow, width: int) -> Text:
    """The total rate sent, second by second."""
    return Text.assemble(
        ("last 60 s ", "dim"),
        (spark(totals.minute, min(_MINUTE_CELLS, max(1, width - 30)), highest(totals)), "cyan"),
        f" {compact(totals.now.bits_per_second, 'bit')}",
    )


def class_table(rows: Sequence[RateRow], totals: RateRow, columns: Sequence[Column]) -> Table:
    """The rows, with the totals below."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="left" if column.is_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(column.text(row), style=_style(column, row)) for column in columns))
    table.add_row(*(Text(column.text(totals), style="bold") for column in columns))
    return table


def connection_table(connections: Sequence[Connection]) -> Table:
    """Live connections; long names are shortened on narrow screens."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in TITLES:
        table.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=True, overflow="ellipsis")
    for each in connections:
        table.add_row(*(Text(cell) for cell in cells(each)))
    return table


def _title(sort: str) -> str:
    return next(column.title for column in COLUMNS if column.key == sort)


def _state(view: View, problem: str, notes: Sequence[str], width: int) -> Text:
    """One line, empty without problems."""
    if not problem and (view.is_paused or not notes):
        return Text("paused: p goes on" if view.is_paused else "", style="bold yellow")
    text = Text(problem, style="bold red") if problem else Text("; ".join(notes), style="yellow")
    text.truncate(width, overflow="ellipsis")
    return text


def _footer(view: View, other: str, sort: str, count: int, end: int, width: int) -> Text:
    more = f"  {count - end} more below" if count > end else ""
    turned = ", reversed" if view.reverse else ""
    text = Text(f"{_KEYS.format(other=other)}   {sort}{turned}{more}", style="dim")
    text.truncate(width, overflow="ellipsis")
    return text


def _style(column: Column, row: RateRow) -> str:
    if column is NAME:
        return "bold"
    if column.key in ("now", "use"):
        return _colour(row.of_ceil)
    if column.key == "drops" and row.drops:
        return "red"
    if column.key == "throttled" and row.throttled:
        return "yellow"
    return "cyan" if column.key == MINUTE else ""


def _colour(share: float | None) -> str:
    if share is None or share < _NEAR:
        return "green"
    return "yellow" if share <= _OVER else "red"
