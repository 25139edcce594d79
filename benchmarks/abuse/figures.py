"""What a scenario is, what it promises, and a run as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.analysis import Analysis
from benchmarks.metrics.base import Better, Figure
from benchmarks.tables import number, table
from sidecar.transport.pipes import MAX_IDLE

if TYPE_CHECKING:
    from benchmarks.abuse.arena import Arena

RELAY, ASIDE = "relay", "step-aside"
DATAPATHS: Final = {RELAY: "Podlane relay", ASIDE: "Podlane step aside"}
INJECTOR: Final = "injector"
SUBJECTS: Final = {**DATAPATHS, INJECTOR: "Podlane injector"}
"""What is abused: sidecars by their datapath, and the injector."""
ERRORS: Final = 0.001
"""The share of honest requests that may fail: one in a thousand."""
MOST_KIB: Final = 64.0
"""Memory per connection, the proxy's and that of all sockets in the kernel."""
LEFT: Final = 2.0 * MAX_IDLE
"""Descriptors that may be left over: those of the pipes that are kept to be used again."""
BACK: Final = 1.1
"""Memory when all is over, as a share of that before."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it: a ``scale`` for counts, the ``seconds`` of the main part, and honest requests per second.

    ``around`` is how many seconds honest clients have to themselves, before and after.
    """

    scale: float = 1.0
    seconds: float = 30.0
    rate: float = 500.0
    around: float = 3.0

    def of(self, count: int) -> int:
        """``count``, to this scale."""
        return max(1, round(count * self.scale))


@dataclass(frozen=True, slots=True)
class Promise:
    """A figure is at most ``limit``, or at least that."""

    figure: str
    limit: float
    at_least: bool = False

    def is_kept(self, value: float) -> bool:
        """Whether a figure of this value is as promised."""
        return value >= self.limit if self.at_least else value <= self.limit


_FIGURES: Final = {
    "held": ("connections held", "", Better.MORE),
    "lost": ("of them lost", "", Better.LESS),
    "asked": ("attempts", "", Better.MORE),
    "honest": ("honest requests", "", Better.MORE),
    "error_share": ("of them failed", "share", Better.LESS),
    "p50_ms": ("their p50", "ms", Better.LESS),
    "p99_ms": ("their p99", "ms", Better.LESS),
    "max_ms": ("the longest", "ms", Better.LESS),
    "idle_p99_ms": ("their p99 before", "ms", Better.LESS),
    "slower": ("their p99 / p99 before", "", Better.LESS),
    "late_ms": ("the honest client itself was late, p99", "ms", Better.LESS),
    "step_ms": ("the longest that anything took the processor at once", "ms", Better.LESS),
    "cpu_share": ("CPU meanwhile", "CPUs", Better.LESS),
    "after_error_share": ("failed afterwards", "share", Better.LESS),
    "user_kib": ("memory of the proxy, per connection", "KiB", Better.LESS),
    "both_kib": ("with the kernel's for all its sockets", "KiB", Better.LESS),
    "growth_mib": ("memory of the proxy, more than before", "MiB", Better.LESS),
    "back": ("memory afterwards / before", "", Better.LESS),
    "descriptors_left": ("descriptors left over", "", Better.LESS),
    "given_up": ("connections no longer followed", "", Better.MORE),
    "turns": ("turns", "", Better.MORE),
    "peak_mib": ("memory at the peak, with all processes", "MiB", Better.LESS),
    "quarter_mib": ("memory of the proxy after a quarter", "MiB", Better.LESS),
    "end_mib": ("at the end", "MiB", Better.LESS),
    "memory_growth": ("memory at the end / after a quarter", "", Better.LESS),
}
FIGURES: Final = {key: Figure(title, unit, better) for key, (title, unit, better) in _FIGURES.items()}


@dataclass(frozen=True)
class Scenario:
    """``run`` gives figures by their keys in :data:`FIGURES`; raises :class:`BenchmarkError` when it cannot."""

    name: str
    title: str
    what: str
    run: Callable[[Arena, Size, str], Mapping[str, float]]
    promises: tuple[Promise, ...]
    datapaths: tuple[str, ...] = (RELAY,)

    @property
    def figures(self) -> Mapping[str, Figure]:
        """All that there are: a scenario has some of them."""
        return FIGURES


_TOLD: Final = {"p50": "p50_ms", "p99": "p99_ms", "maximum": "max_ms", "late": "late_ms"}


def honest_figures(told: Mapping[str, Any]) -> dict[str, float]:
    """What honest clients told."""
    figures = {"honest": float(told["count"]), "error_share": told["errors"] / max(1, told["count"])}
    for theirs, ours in _TOLD.items():
        if theirs in told:
            figures[ours] = told[theirs]
    return figures


def broken(analysis: Analysis, scenarios: Mapping[str, Scenario]) -> list[str]:
    """Promises that a run did not keep, and scenarios that gave no figures, in words."""
    found = [f"{what} ({who}): {why}" for who, what, why in analysis.failures()]
    for name, scenario in scenarios.items():
        for promise in scenario.promises:
            for datapath in scenario.datapaths:
                value = analysis.median(name, promise.figure, datapath)
                if value is not None and not promise.is_kept(value):
                    title, side = FIGURES[promise.figure].title, "below" if promise.at_least else "above"
                    found.append(f"{name} ({datapath}): {title}: {number(value)}, {side} {number(promise.limit)}.")
    return found


def document(analysis: Analysis, scenarios: Mapping[str, Scenario]) -> str:
    """The whole report."""
    sections = [("", _heading(analysis)), ("Promises", _promises(analysis, scenarios))]
    sections += [(s.title, _scenario(analysis, s)) for s in scenarios.values()]
    sections.append(("What went wrong", "\n".join(f"* {line}" for line in broken(analysis, scenarios))))
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in sections if text) + "\n"


def _heading(analysis: Analysis) -> str:
    machine, settings = analysis.results.machine, analysis.results.settings
    state = "" if analysis.results.complete else " **The run was interrupted.**"
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cpus']} CPUs, {machine['memory']}, "
        f"Linux {machine['kernel']}, {machine['system']}, Python {machine['python']}, {machine['nginx']}; load average "
        f"before: {machine['load before']}. Medians of {settings['rounds']} rounds, {settings['seconds']:g} s each; "
        f"{settings['rate']:g} honest requests/s; counts times {settings['scale']:g}.{state}"
    )


def _promises(analysis: Analysis, scenarios: Mapping[str, Scenario]) -> str:
    rows = [row for scenario in scenarios.values() for row in _promise_rows(analysis, scenario)]
    return table(["", "datapath", "figure", "promise", "median", ""], rows) if rows else ""


def _promise_rows(analysis: Analysis, scenario: Scenario) -> Iterator[list[str]]:
    for datapath in scenario.datapaths:
        for promise in scenario.promises:
            value = analysis.median(scenario.name, promise.figure, datapath)
            if value is not None:
                kept = "kept" if promise.is_kept(value) else "**not kept**"
                title, limit = FIGURES[promise.figure].title, number(promise.limit)
                said = f"{'≥' if promise.at_least else '≤'} {limit}"
                yield [scenario.name, datapath, title, said, number(value), kept]


def _scenario(analysis: Analysis, scenario: Scenario) -> str:
    """A row per figure, a column per datapath."""
    columns = [d for d in scenario.datapaths if analysis.measured_of(d, scenario.name)]
    rows = []
    for key, figure in FIGURES.items():
        cells = [number(analysis.median(scenario.name, key, datapath)) for datapath in columns]
        if any(cell != "–" for cell in cells):
            rows.append([f"{figure.title}, {figure.unit}" if figure.unit else figure.title, *cells])
    return f"{scenario.what}\n\n{table(['', *columns], rows)}" if rows else ""
