"""What the demo prints: the live table, plain lines where nobody watches, and the report at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from podlane.demonstration.clients import Upload
from podlane.demonstration.recording import CEIL_TOLERANCE, Recording, Verdict
from podlane.demonstration.scenario import Lane, Scenario, Span
from tc_core.units import ByteCount, Rate

if TYPE_CHECKING:
    from rich.console import Console

COLOURS: Final = {"api": "#0072b2", "video": "#d55e00", "web": "#009e73", "events": "#cc79a7", "backup": "#767676"}
"""Okabe and Ito's palette, which the colour-blind can tell apart; the plot uses the same."""
_BAR_CELLS: Final = 30
_NARROW: Final = 114
"""Columns that the whole live table takes. In less, the lanes' names for their criteria go, and the bar shrinks."""
_NARROW_REST: Final = 66
"""Columns of the narrow table beside its bar."""
_NARROW_BAR: Final = 10
_PLAIN_SECONDS: Final = 2.0
"""Between two lines where there is no terminal."""


class View(Protocol):
    """Shows a running demo."""

    def show(self, recording: Recording, span: Span) -> None:
        """Bring the picture up to date."""

    def announce(self, time: float, text: str) -> None:
        """Something happened at ``time`` (seconds from the start)."""

    def close(self) -> None:
        """Leave the terminal as it was."""


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

    def show(self, recording: Recording, span: Span) -> None:
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

    def show(self, recording: Recording, span: Span) -> None:  # noqa: ARG002 - the live view needs it
        if recording.now < self._next:
            return
        self._next += _PLAIN_SECONDS
        rates = (f"{lane.name} {mbit(recording.current(lane.name)):>5}" for lane in self._scenario.lanes)
        total = sum(recording.current(lane.name) for lane in self._scenario.lanes)
        self._print(f"{recording.now:5.1f} s  {'  '.join(rates)}  | all {mbit(total):>5} Mbit/s")

    def announce(self, time: float, text: str) -> None:
        self._print(f"{time:5.1f} s  {text}")

    def close(self) -> None:
        return

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)


def live_table(scenario: Scenario, recording: Recording, span: Span, width: int = _NARROW) -> Table:
    """The lanes now: limits, rate, and a bar with the guarantee (│) and the ceil (┃) marked on it.

    ``width`` is the terminal's, in columns.
    """
    narrow = width < _NARROW
    cells = max(_NARROW_BAR, min(_BAR_CELLS, width - _NARROW_REST)) if narrow else _BAR_CELLS
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, justify in (
        ("lane", "left"),
        ("told by", "left"),
        ("guaranteed", "right"),
        (" ceil", "right"),
        ("  now", "right"),
        (f"of {scenario.total.human}", "left"),
        ("share", "right"),
        ("", "left"),
    ):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    total = 0.0
    for lane in scenario.lanes:
        rate, limits = recording.current(lane.name), recording.limits(lane.name, recording.now)
        total += rate
        over = rate > limits.ceil.bits_per_second * CEIL_TOLERANCE
        idle = lane.name not in span.active
        settling = recording.now < span.steady
        verdict = (
            Text("–", style="dim")
            if idle
            else Text("settling" if settling else "over!", style="dim" if settling else "bold red")
            if over
            else Text("within", style="green")
        )
        table.add_row(
            Text(lane.name, style=f"bold {COLOURS[lane.name]}"),
            lane.criterion if narrow else f"{lane.criterion} {lane.value}",
            mbit(limits.rate.bits_per_second),
            mbit(limits.ceil.bits_per_second),
            Text(mbit(rate), style="bold"),
            _bar(rate, limits.rate, limits.ceil, scenario.total, COLOURS[lane.name], cells),
            f"{rate / scenario.total.bits_per_second:.0%}",
            verdict,
        )
    table.add_row(
        Text("all", style="bold"),
        "",
        "",
        mbit(scenario.total.bits_per_second),
        Text(mbit(total), style="bold"),
        "",
        f"{total / scenario.total.bits_per_second:.0%}",
        "Mbit/s",
    )
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


def print_report(
    console: Console,
    recording: Recording,
    verdict: Verdict,
    uploads: Sequence[Upload],
    protocols: Mapping[str, Sequence[str]],
) -> None:
    """The settled rates phase by phase against the limits, what arrived, and the verdict."""
    scenario = recording.scenario
    sent = {upload.lane: upload for upload in uploads}
    console.print()
    console.print(
        "Mbit/s in the settled part of each phase, as the kernel counted on the Pod's interface:\n", soft_wrap=True
    )
    console.print(report_table(scenario, verdict, sent, protocols))
    for problem in [*verdict.problems, *upload_problems(uploads)]:
        console.print(Text(f"✗ {problem}", style="red"), soft_wrap=True)
    if not verdict.problems and all(upload.complete for upload in uploads):
        console.print(
            Text(
                "✓ Every lane kept its guarantee and stayed within its ceil, before and after the change of limits.\n"
                "✓ No connection broke, and every byte that was sent arrived.",
                style="green",
            ),
            soft_wrap=True,
        )


def report_table(
    scenario: Scenario, verdict: Verdict, uploads: Mapping[str, Upload], protocols: Mapping[str, Sequence[str]]
) -> Table:
    """Phases down, lanes across."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for lane in scenario.lanes:
        table.add_column(Text(lane.name, style=COLOURS[lane.name]), justify="right", no_wrap=True)
    table.add_column("in use", justify="right", no_wrap=True)
    table.add_row("told by", *(lane.criterion for lane in scenario.lanes), "")
    table.add_row("seen as", *(_seen_as(lane, protocols) for lane in scenario.lanes), "")
    previous = None
    used = dict(verdict.used)
    for span in scenario.spans:
        limits = span.limits(scenario)
        if limits is not previous:
            cells = (
                f"{limits[lane.name].rate.bits_per_second / 1e6:g}–{limits[lane.name].ceil.bits_per_second / 1e6:g}"
                for lane in scenario.lanes
            )
            table.add_row(Text("guaranteed–ceil", style="italic"), *(Text(c, style="italic") for c in cells), "")
            previous = limits
        row = [_cell(verdict, span, lane) for lane in scenario.lanes]
        table.add_row(f" {span.phase.name}", *row, f"{used.get(span, 0.0):.0%}")
    table.add_row("sent", *(_amount(uploads.get(lane.name)) for lane in scenario.lanes), "")
    table.add_row("arrived whole", *(_arrived(uploads.get(lane.name)) for lane in scenario.lanes), "")
    return table


def upload_problems(uploads: Sequence[Upload]) -> list[str]:
    """What is wrong with uploads that did not arrive whole."""
    return [
        f"{u.lane}: {u.problem or f'{u.sent} bytes were sent, {u.received} arrived'}."
        for u in uploads
        if not u.complete
    ]


def _seen_as(lane: Lane, protocols: Mapping[str, Sequence[str]]) -> str:
    if lane.criterion == "port":
        return "(kernel)"
    return ", ".join(protocols.get(lane.name, ())) or "?"


def _cell(verdict: Verdict, span: Span, lane: Lane) -> Text:
    found = verdict.of(span, lane.name)
    if found is None:
        return Text("–", style="dim")
    good = found.within_ceil and found.guarantee_kept
    return Text(f"{mbit(found.rate.bits_per_second)} {'✓' if good else '✗'}", style="" if good else "bold red")


def _amount(upload: Upload | None) -> str:
    return ByteCount(upload.sent).human if upload else "–"


def _arrived(upload: Upload | None) -> Text:
    if upload is None:
        return Text("–", style="dim")
    return Text("yes ✓") if upload.complete else Text("no ✗", style="bold red")
