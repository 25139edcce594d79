"""What is measured of the node's agent, and a run as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.goals import Goal
from benchmarks.metrics.base import Better, Figure
from benchmarks.tables import number, table, with_range

AGENT: Final = "agent"


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement: its name, its title, and its figures by their keys."""

    name: str
    title: str
    figures: Mapping[str, Figure]


def _less(title: str, unit: str) -> Figure:
    return Figure(title, unit, Better.LESS)


TOGETHER: Final = Measured(
    "together",
    "all but one named at once",
    {
        "seconds": _less("until the last has its lanes", "s"),
        "cpu_ms": _less("CPU for each, its programs included", "ms"),
    },
)
MEMORY: Final = Measured(
    "memory",
    "memory (PSS)",
    {
        "one_mib": _less("with one", "MiB"),
        "all_mib": _less("with all", "MiB"),
        "each_mib": _less("for each further one", "MiB"),
    },
)
IDLE: Final = Measured("idle", "none has traffic", {"cpu_percent": _less("CPU, of one core", "%")})
ADOPTED: Final = Measured(
    "adopted",
    "the next agent after SIGKILL",
    {
        "seconds": _less("until it has adopted all, its start included", "s"),
        "cpu_s": _less("CPU until then", "s"),
        "start_s": _less("CPU of a start with one workload, for comparison", "s"),
    },
)
PACED: Final = Measured(
    "paced",
    "namespaces that come at a rate",
    {
        "p50_ms": _less("from the namespace to its lanes, p50", "ms"),
        "p99_ms": _less("from the namespace to its lanes, p99", "ms"),
        "late_p99_ms": _less("namespaces came late, p99", "ms"),
    },
)
ALL: Final = (TOGETHER, MEMORY, IDLE, ADOPTED, PACED)

GOALS: Final = (
    Goal("memory with all workloads, MiB", AGENT, MEMORY.name, "all_mib", None, 150.0, False),
    Goal("memory for each further workload, MiB", AGENT, MEMORY.name, "each_mib", None, 0.5, False),
    Goal("CPU while all are idle, % of a core", AGENT, IDLE.name, "cpu_percent", None, 1.0, False),
    Goal("from a namespace to its lanes at the rate, p99, ms", AGENT, PACED.name, "p99_ms", None, 300.0, False),
    Goal("all adopted after SIGKILL, s", AGENT, ADOPTED.name, "seconds", None, 1.0, False),
)
_COLLAPSE: Final = {
    (IDLE.name, "cpu_percent"): 25.0,
    (TOGETHER.name, "cpu_ms"): 300.0,
    (PACED.name, "p99_ms"): 10_000.0,
}
"""Far above what a busy machine gives."""


def collapses(analysis: Analysis) -> list[str]:
    """What is so bad that it must be a mistake, in words, even on a busy machine. Nothing: all is well."""
    found = [f"{what} gave no figure: {why}" for _, what, why in analysis.failures()]
    for measured in ALL:
        for key, figure in measured.figures.items():
            value, most = analysis.median(measured.name, key, AGENT), _COLLAPSE.get((measured.name, key))
            if value is not None and most is not None and value > most:
                found.append(f"{measured.title}: {figure.title} is {number(value)} {figure.unit}.")
    return found


def document(analysis: Analysis) -> str:
    """The whole report."""
    sections = [("", _heading(analysis)), ("Goals", _goals(analysis)), ("Figures", _figures(analysis))]
    if wrong := "\n".join(_wrong(analysis)):
        sections.append(("What went wrong", wrong))
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in sections) + "\n"


def _heading(analysis: Analysis) -> str:
    machine, settings = analysis.results.machine, analysis.results.settings
    state = "" if analysis.results.complete else " **The run was interrupted.**"
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cpus']} CPUs, {machine['memory']}, "
        f"Linux {machine['kernel']}, {machine['system']}, Python {machine['python']}; load average before: "
        f"{machine['load before']}. Medians, and the rounds' least and greatest; rounds: {settings['rounds']}; "
        f"workloads: {settings['workloads']}, idle for {settings['seconds']:g} s; {settings['coming']} more at "
        f"{settings['rate']:g} per second.{state}"
    )


def _goals(analysis: Analysis) -> str:
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [[goal.title, goal.wanted, number(goal.value(analysis)), words[goal.met(analysis)]] for goal in GOALS]
    return table(["figure", "goal", "median", ""], rows)


def _figures(analysis: Analysis) -> str:
    rows = [
        [f"{measured.title}: {figure.title}, {figure.unit}", with_range(analysis.spread(measured.name, key, AGENT))]
        for measured in ALL
        for key, figure in measured.figures.items()
    ]
    return table(["", "agent"], rows)


def _wrong(analysis: Analysis) -> Iterator[str]:
    for _, what, why in analysis.failures():
        yield f"* {what}: {why}"
