"""The report at the end of a part: settled rates by phase against the limits, the bytes received, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from podlane.demo.clients import Transfer
from podlane.demo.recording import DemoVerdict, Measured, Recording
from podlane.demo.scenario import DemoLane, Scenario, TransferDirection, TransferKind
from podlane.demo.view import mbit
from traffic_policy.policy import ResolvedClass

if TYPE_CHECKING:
    from rich.console import Console

_ABOUT: Final = {
    TransferKind.UPLOAD: "What the Pod uploads",
    TransferKind.ANSWER: "Answers to what clients open",
    TransferKind.DOWNLOAD: "Downloads into the Pod",
    TransferKind.REQUEST: "Requests of one connection, each in its own lane",
}

_WORD: Final = {TransferDirection.SENT: "out", TransferDirection.RECEIVED: "in"}
"""Short: the table is to fit into 80 columns."""
_MIB: Final = 1 << 20


def print_report(
    console: Console,
    recording: Recording,
    verdict: DemoVerdict,
    transfers: Sequence[Transfer],
    protocols: Mapping[str, Sequence[str]],
    clients_known: bool = True,
    more: Sequence[tuple[bool, str]] = (),
) -> None:
    """The table, what is wrong, and a line for each kind of traffic: kept or not, with the figures; then ``more``."""
    scenario = recording.scenario
    console.print()
    title = "Mbit/s in the settled part of each phase, as the kernel counted on the Pod's interface:\n"
    console.print(title, soft_wrap=True)
    console.print(report_table(scenario, verdict, transfers, protocols))
    for problem in [*verdict.problems, *_transfer_problems(transfers)]:
        console.print(Text(f"✗ {problem}", style="red"), soft_wrap=True)
    for good, line in (*verdict_lines(recording, verdict, transfers, clients_known), *more):
        console.print(Text(f"{'✓' if good else '✗'} {line}", style="green" if good else "red"), soft_wrap=True)


def verdict_lines(
    recording: Recording, verdict: DemoVerdict, transfers: Sequence[Transfer], clients_known: bool
) -> Iterator[tuple[bool, str]]:
    """Sentences with the figures, and whether each is good news: by kind of traffic, then what is true of all."""
    scenario = recording.scenario
    finished = {transfer.lane for transfer in transfers}
    for pod, kind in dict.fromkeys((lane.pod, lane.kind) for lane in scenario.lanes):
        lanes = [lane.name for lane in scenario.lanes if (lane.pod, lane.kind) == (pod, kind)]
        found = {name: [m for m in verdict.measured.values() if m.lane == name] for name in lanes}
        good = all(measured and all(m.good for m in measured) for measured in found.values())
        word = "within guarantees and ceils" if good else "NOT within guarantees and ceils"
        about = f"What the Pod {pod} uploads" if pod else _ABOUT[kind]
        yield good, f"{about}: {word} ({', '.join(_figures(*each) for each in found.items())} Mbit/s)."
        if kind is TransferKind.ANSWER and not finished.isdisjoint(found):
            whose = "its" if clients_known else "NOT only its"
            yield clients_known, f"The Pod's server saw {whose} clients' own addresses."
    if scenario.change_at is not None and recording.changed_at is not None:
        yield True, f"Limits changed at {recording.changed_at:.0f} s, while all lanes were in use."
    if transfers and all(transfer.complete for transfer in transfers):
        yield True, "No connection broke, and every byte that was sent arrived."


def _figures(lane: str, measured: Sequence[Measured]) -> str:
    if not measured:
        return f"{lane} nothing"
    rates = [m.rate.bits_per_second / 1e6 for m in measured]
    low, high = f"{min(rates):.1f}", f"{max(rates):.1f}"
    return f"{lane} {low}" if low == high else f"{lane} {low}–{high}"


def report_table(
    scenario: Scenario, verdict: DemoVerdict, transfers: Sequence[Transfer], protocols: Mapping[str, Sequence[str]]
) -> Table:
    """Phases down, lanes across."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for lane in scenario.lanes:
        table.add_column(Text(lane.name, style=lane.colour), justify="right", no_wrap=True)
    ways = tuple(scenario.totals)
    for _ in ways:
        table.add_column("in use" if len(ways) == 1 else "use", justify="right", no_wrap=True)
    if len(ways) > 1:
        table.add_row("", *(_WORD[lane.kind.way] for lane in scenario.lanes), *(_WORD[way] for way in ways))
    if scenario.part.pods:
        table.add_row("Pod", *(lane.pod for lane in scenario.lanes))
    table.add_row("told by", *(lane.criterion for lane in scenario.lanes))
    table.add_row("seen as", *(_seen_as(lane, protocols) for lane in scenario.lanes))
    previous = None
    for span in scenario.spans:
        limits = span.limits(scenario)
        if limits is not previous:
            cells = (_limits(limits[lane.name]) for lane in scenario.lanes)
            table.add_row("guarantee–ceil", *cells, style="italic")
            previous = limits
        row = [_cell(verdict.measured.get((span, lane.name))) for lane in scenario.lanes]
        shares = (verdict.used.get((span, way)) for way in ways)
        table.add_row(f" {span.phase.name}", *row, *("–" if share is None else f"{share:.0%}" for share in shares))
    ended = {transfer.lane: transfer for transfer in transfers}
    amounts = (f"{ended[lane.name].sent / _MIB:.1f}" if lane.name in ended else "–" for lane in scenario.lanes)
    table.add_row("MiB", *amounts)
    table.add_row("arrived whole", *(_arrived(ended.get(lane.name)) for lane in scenario.lanes))
    return table


def _transfer_problems(transfers: Sequence[Transfer]) -> Iterator[str]:
    for each in transfers:
        if not each.complete:
            yield f"{each.lane}: {each.problem or f'{each.sent} bytes were sent, {each.received} arrived'}."


def _limits(limits: ResolvedClass) -> str:
    return f"{limits.rate.bits_per_second / 1e6:g}–{limits.ceil.bits_per_second / 1e6:g}"


def _seen_as(lane: DemoLane, protocols: Mapping[str, Sequence[str]]) -> str:
    if lane.criterion == "port":
        return "(kernel)"
    return ", ".join(protocols.get(lane.name, ())) or "?"


def _cell(found: Measured | None) -> Text:
    if found is None:
        return Text("–", style="dim")
    mark, style = ("✓", "") if found.good else ("✗", "bold red")
    return Text(f"{mbit(found.rate.bits_per_second)} {mark}", style=style)


def _arrived(transfer: Transfer | None) -> Text:
    if transfer is None:
        return Text("–", style="dim")
    return Text("yes ✓") if transfer.complete else Text("no ✗", style="bold red")
