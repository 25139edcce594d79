"""``podlane top`` without a terminal: a table, or one line of JSON per interval."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from daemon.documents.connections import Connections
from podlane.top.columns import MINUTE, arranged, fitting
from podlane.top.connections import count_words, in_class
from podlane.top.connections import document as connection_document
from podlane.top.rates import Frame, RateRow, RateTracker, pause_after_look
from podlane.top.readings import AwayError, ClassReading, Source
from podlane.top.render import class_table, connection_table, title
from podlane.top.view import View
from traffic_policy.units import Rate

if TYPE_CHECKING:
    from rich.console import Console

_UNBOUNDED: Final = 10_000
"""Width without a terminal: readers of a file or a pipe can cut lines themselves."""


def frames(
    source: Source,
    interval: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    away: Callable[[str], None] = lambda _: None,
) -> Iterator[Frame]:
    """A frame after each interval, endlessly; the first one after the first interval.

    There is none while the source is away, and ``away`` is told why, once; the next one comes an interval after its
    return. Raises the source's other errors.
    """
    watch = RateTracker(interval)
    watch.add(source.read())
    due = clock() + interval
    took = 0.0
    is_away = False
    while True:
        while (left := due - clock()) > 0 or is_away:
            usual = pause_after_look(took, interval)
            pause(usual if is_away else min(left, usual))
            began = clock()
            try:
                watch.add(source.read())
            except AwayError as error:
                if not is_away:
                    away(str(error))
                is_away = True
            else:
                if is_away:
                    due = clock() + interval
                is_away = False
            took = clock() - began
        yield watch.frame()
        due = max(due + interval, clock())


def print_frame(console: Console, source: Source, frame: Frame, view: View, shown: Connections | None) -> None:
    """A table of classes, or of the connections in ``shown``."""
    if not console.is_terminal:
        console.width = _UNBOUNDED
    width = console.width
    console.print(title(source.name, frame, width), soft_wrap=True)
    console.print()
    if shown is None:
        rows = arranged(frame.rows, view.sort, reverse=view.reverse)
        columns = [column for column in fitting((*rows, frame.totals), width) if column.key != MINUTE]
        console.print(class_table(rows, frame.totals, columns))
        for note in frame.reading.notes:
            console.print(Text(note, style="yellow"), soft_wrap=True)
        return
    listed = in_class(shown.connections, view.connection_sort, reverse=view.reverse)
    console.print(connection_table(listed))
    console.print(Text(count_words(shown)), soft_wrap=True)


def json_line(source: Source, frame: Frame, shown: Connections | None, now: float) -> str:
    """A frame as one line. Rates are bits per second, amounts bytes, times seconds, shares from 0 to 1.

    ``now`` is in seconds since 1970.
    """
    reading = frame.reading
    document: dict[str, Any] = {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "source": source.name,
        "interface": reading.interface,
        "seconds": round(frame.seconds, 3),
        "total_bits_per_second": _bits(reading.total),
        "classes": [{**_names(row.reading), **_document(row)} for row in frame.rows],
        "all": _document(frame.totals),
    }
    if reading.notes:
        document["notes"] = reading.notes
    if shown is not None:
        document["active"] = shown.active
        document["connections"] = [connection_document(each) for each in shown.connections]
    return json.dumps(document, ensure_ascii=False)


def _names(reading: ClassReading) -> dict[str, str]:
    return {"workload": reading.workload, "name": reading.name} if reading.workload else {"name": reading.name}


def _document(row: RateRow) -> dict[str, Any]:
    reading = row.reading
    return {
        "direction": "receives" if reading.arrives else "sends",
        "priority": reading.priority,
        "rate_bits_per_second": _bits(reading.rate),
        "ceil_bits_per_second": _bits(reading.ceil),
        "now_bits_per_second": row.now.bits_per_second,
        "of_ceil": _share(row.of_ceil),
        "borrowed": _share(row.borrowed),
        "packets_per_second": round(row.packets, 1),
        "drops_per_second": round(row.drops, 1),
        "overlimits_per_second": round(row.overlimits, 1),
        "backlog_bytes": reading.stats.backlog_bytes,
        "backlog_packets": reading.stats.backlog_packets,
        "backlog_seconds": _share(row.backlog_seconds),
        "throttled": _share(row.throttled),
        "connections": reading.active,
        "new_connections_per_second": None if row.opened is None else round(row.opened, 1),
    }


def _bits(rate: Rate | None) -> int | None:
    return None if rate is None else rate.bits_per_second


def _share(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
