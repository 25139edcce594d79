"""What is measured of the node's agent, and a run as Markdown. Pure."""

from __future__ import annotations

from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.goals import Goal
from benchmarks.measured import Measured, beyond, goals_table, interrupted, less, machine_line, report
from benchmarks.tables import table, with_range

AGENT: Final = "agent"


TOGETHER: Final = Measured(
    "together",
    "all but one named at once",
    {
        "seconds": less("until the last has its lanes", "s"),
        "cpu_ms": less("CPU for each, its programs included", "ms"),
    },
)
MEMORY: Final = Measured(
    "memory",
    "memory (PSS)",
    {
        "one_mib": less("with one", "MiB"),
        "all_mib": less("with all", "MiB"),
        "each_mib": less("for each further one", "MiB"),
    },
)
IDLE: Final = Measured("idle", "none has traffic", {"cpu_percent": less("CPU, of one core", "%")})
ADOPTED: Final = Measured(
    "adopted",
    "the next agent after SIGKILL",
    {
        "seconds": less("until it has adopted all, its start included", "s"),
        "cpu_s": less("CPU until then", "s"),
        "start_s": less("CPU of a start with one workload, for comparison", "s"),
    },
)
PACED: Final = Measured(
    "paced",
    "namespaces that come at a rate",
    {
        "p50_ms": less("from the namespace to its lanes, p50", "ms"),
        "p99_ms": less("from the namespace to its lanes, p99", "ms"),
        "late_p99_ms": less("namespaces came late, p99", "ms"),
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
    return beyond(_COLLAPSE, ALL, AGENT, analysis)


def document(analysis: Analysis) -> str:
    """The whole report."""
    settings = analysis.results.settings
    heading = (
        f"{machine_line(analysis)}; rounds: {settings['rounds']}; workloads: {settings['workloads']}, idle for "
        f"{settings['seconds']:g} s; {settings['coming']} more at {settings['rate']:g} per second."
        f"{interrupted(analysis)}"
    )
    return report([("", heading), ("Goals", goals_table(GOALS, analysis)), ("Figures", _figures(analysis))], analysis)


def _figures(analysis: Analysis) -> str:
    rows = [
        [f"{measured.title}: {figure.title}, {figure.unit}", with_range(analysis.spread(measured.name, key, AGENT))]
        for measured in ALL
        for key, figure in measured.figures.items()
    ]
    return table(["", "agent"], rows)
