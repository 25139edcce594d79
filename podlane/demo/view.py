"""The output of a running demo: a live table on a terminal, else plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from podlane.demo.recording import CEIL_TOLERANCE, Recording
from podlane.demo.scenario import DemoLane, PhaseSpan, Scenario, TransferKind
from traffic_policy.units import Rate

if TYPE_CHECKING:
    from rich.console import Console

_BAR_CELLS: Final = 30
_NARROW: Final = 114
"""Width of the whole live table. On narrower terminals, the names of criteria are omitted and the bar shrinks."""
_NARROW_REST: Final = 66
"""Columns of the narrow table in addition to its bar."""
_NARROW_BAR: Final = 10
_PLAIN_SECONDS: Final = 2.0
"""Seconds between two lines without a terminal."""


def mbit(bits_per_second: float) -> str:
    """Mbit/s with one decimal, for columns."""
    return f"{bits_per_second / 1e6:.1f}"


class LiveView:
    """A table that is redrawn in place."""

    def __init__(self, console: Console, scenario: Scenario) -> None:
        self._scenario = scenario
        self._events: list[Text] = []
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, recording: Recording, span: PhaseSpan) -> None:
        progress = Text(f"{recording.now:4.0f} s of {self._scenario.seconds:.0f}   {span.phase.title}", style="bold")
        table = live_table(self._scenario, recording, span, self._live.console.width)
        self._live.update(Group(*self._events, Text(), progress, table), refresh=True)

    def announce(self, time: float, text: str) -> None:
        self._events.append(Text(f"{time:4.0f} s  {text}", style="dim"))

    def close(self) -> None:
        self._live.stop()


class PlainView:
    """One line every two seconds, for logs and pipes."""

    def __init__(self, console: Console, scenario: Scenario) -> None:
        self._console = console
        self._scenario = scenario
        self._next = 0.0

    def show(self, recording: Recording, span: PhaseSpan) -> None:  # noqa: ARG002 - the live view needs it
        if recording.now < self._next:
            return
        self._next += _PLAIN_SECONDS
        rates = (f"{lane.name} {mbit(recording.current(lane.name)):>5}" for lane in self._scenario.lanes)
        sums = (f"{word} {mbit(_together(recording, lanes)):>5}" for word, _, lanes in _sums(self._scenario))
        self._print(f"{recording.now:5.1f} s  {'  '.join(rates)}  | {'  '.join(sums)} Mbit/s")

    def announce(self, time: float, text: str) -> None:
        self._print(f"{time:5.1f} s  {text}")

    def close(self) -> None:
        """Does nothing."""

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)


DemoView = LiveView | PlainView
"""Shows a running demo: what happened (times in seconds from the start), and the present rates."""


def _sums(scenario: Scenario) -> list[tuple[str, Rate, tuple[DemoLane, ...]]]:
    """For each way: what to call all of it, its total, and its lanes."""
    alone = len(scenario.totals) == 1
    return [("all" if alone else way.value, total, scenario.on(way)) for way, total in scenario.totals.items()]


def _told_by(lane: DemoLane) -> str:
    kind = "" if lane.kind is TransferKind.UPLOAD else f"{lane.kind.value}, "
    return f"{kind}{lane.criterion} {lane.value}"


def _together(recording: Recording, lanes: tuple[DemoLane, ...]) -> float:
    return sum(recording.current(lane.name) for lane in lanes)


def live_table(scenario: Scenario, recording: Recording, span: PhaseSpan, width: int = _NARROW) -> Table:
    """The lanes now: limits, rate, and a bar with the guarantee (│) and the ceil (┃) marked on it.

    ``width`` is the terminal's, in columns.
    """
    narrow = width < _NARROW
    cells = max(_NARROW_BAR, min(_BAR_CELLS, width - _NARROW_REST)) if narrow else _BAR_CELLS
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    sums = _sums(scenario)
    pods = scenario.part.pods
    share = (
        f"of {sums[0][1].human}" if len(sums) == 1 and not pods else "of the Pod's total" if pods else "of the total"
    )
    for title in ("lane", "told by", "guaranteed", " ceil", "  now", share, "share", ""):
        is_number = title in ("guaranteed", " ceil", "  now", "share")
        table.add_column(title, justify="right" if is_number else "left", no_wrap=True)
    for lane in scenario.lanes:
        rate, limits = recording.current(lane.name), recording.limits(lane.name, recording.now)
        total = scenario.total(lane)
        over = rate > limits.ceil.bits_per_second * CEIL_TOLERANCE
        idle = lane.name not in span.active
        verdict = Text("within", style="green")
        if idle:
            verdict = Text("–", style="dim")
        elif over:
            verdict = Text("settling", style="dim") if recording.now < span.steady else Text("over!", style="bold red")
        table.add_row(
            Text(f"{lane.pod} {lane.name}".strip(), style=f"bold {lane.colour}"),
            lane.criterion if narrow else _told_by(lane),
            mbit(limits.rate.bits_per_second),
            mbit(limits.ceil.bits_per_second),
            Text(mbit(rate), style="bold"),
            _bar(rate, limits.rate, limits.ceil, total, lane.colour, cells),
            f"{rate / total.bits_per_second:.0%}",
            verdict,
        )
    for word, total, lanes in sums:
        together = _together(recording, lanes)
        most, now, share = mbit(total.bits_per_second), mbit(together), f"{together / total.bits_per_second:.0%}"
        table.add_row(Text(word, style="bold"), "", "", most, Text(now, style="bold"), "", share, "Mbit/s")
    return table


def _bar(rate: float, guaranteed: Rate, ceil: Rate, total: Rate, colour: str, cells: int) -> Text:
    def cell(bits_per_second: float) -> int:
        return min(cells, max(0, round(bits_per_second / total.bits_per_second * cells)))

    bar, filled = Text(), cell(rate)
    for index in range(cells + 1):
        if index == cell(ceil.bits_per_second):
            bar.append("┃", style="bold")
        elif index == cell(guaranteed.bits_per_second):
            bar.append("│", style=f"on {colour}" if index < filled else "")
        else:
            bar.append("█" if index < filled else " ", style=colour)
    return bar
