"""The table at the end of a run, from the sidecar's last ``/classes`` document (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from daemon.documents.classes import Class, Classes, ConnectionCounts
from podlane.text_output import aligned
from traffic_policy.units import ByteCount, Rate

_MEASURED: Final = ("average", "peak", "packets", "drops")
_SENT: Final = ("class", "guaranteed", "ceiling", "sent", *_MEASURED, "connections")
_RECEIVED: Final = ("class", "guaranteed", "ceiling", "received", *_MEASURED)
_SHOW_ALL: Final = 12
"""Up to this number of classes, idle ones are listed, too."""
_LEFT: Final = frozenset({0, len(_SENT) - 1})
"""Columns of text: the names, and the connections by protocol."""


def summary_lines(document: Classes, seconds: float) -> list[str]:
    """A line of headings, then one per class. ``seconds``: COMMAND's run time, for the averages.

    The same follows for received traffic, if the policy limits it. Of many classes only those that sent or received
    bytes are listed, and a last line counts the others.
    """
    lines = _table(_SENT, document.classes, seconds)
    if document.received is not None:
        lines += _table(_RECEIVED, document.received.classes, seconds)
    return lines


def _table(headings: tuple[str, ...], classes: Sequence[Class], seconds: float) -> list[str]:
    shown = [entry for entry in classes if entry.packets or len(classes) <= _SHOW_ALL]
    lines = list(aligned([headings, *(_row(entry, seconds) for entry in shown)], _LEFT))
    if silent := len(classes) - len(shown):
        lines.append(f"{silent} more {headings[3]} nothing")
    return lines


def _row(entry: Class, seconds: float) -> tuple[str, ...]:
    average = Rate(int(entry.bytes * 8 / seconds)) if seconds > 0 else Rate(0)
    return (
        entry.name,
        Rate(entry.rate_bits_per_second).human,
        Rate(entry.ceil_bits_per_second).human,
        ByteCount(entry.bytes).human,
        _short(average),
        # A run shorter than the sampling interval has no samples for a peak.
        _short(Rate(max(entry.peak_rate_bits_per_second, average.bits_per_second))),
        str(entry.packets),
        str(entry.drops),
        *([_connections(entry.connections)] if entry.connections is not None else []),
    )


def _connections(counts: ConnectionCounts) -> str:
    by_protocol = ", ".join(f"{number} {name}" for name, number in counts.by_protocol.items() if number)
    return f"{counts.total} ({by_protocol})" if by_protocol else str(counts.total)


def _short(rate: Rate) -> str:
    """A measured rate with one decimal: more would be false precision."""
    for suffix, factor in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
        if rate.bits_per_second >= factor:
            return f"{rate.bits_per_second / factor:.1f} {suffix}"
    return f"{rate.bits_per_second} bit/s"
