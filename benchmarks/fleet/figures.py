"""What is measured of a control plane with its fleet, and a run as Markdown. Pure."""

from __future__ import annotations

from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.goals import Goal
from benchmarks.measured import Measured, beyond, goals_table, interrupted, less, machine_line, more, report
from benchmarks.tables import table, with_range

FLEET: Final = "fleet"
SQLITE, POSTGRESQL = "sqlite", "postgresql"

JOIN: Final = Measured(
    "join",
    "agents join, by tokens of their own",
    {
        "per_s": more("tokens issued, certificates fetched: agents/s", "/s"),
        "cpu_ms": less("CPU of the control plane for each", "ms"),
        "agents_cpu_ms": less("CPU of the agents for each", "ms"),
    },
)
CHANGE: Final = Measured(
    "change",
    "from a commit (its answer) to APPLIED, a policy for all",
    {
        "p50_s": less("half of the agents", "s"),
        "p99_s": less("99 of 100 agents", "s"),
        "last_s": less("the last agent", "s"),
        "cpu_s": less("CPU of the control plane for a change", "s"),
        "agents_cpu_s": less("CPU of the agents for a change", "s"),
    },
)
REPORTS: Final = Measured(
    "reports",
    "reports of 20 values from each agent each second",
    {"cores": less("CPU of the control plane", "cores"), "agents_cores": less("CPU of the agents", "cores")},
)
READS: Final = Measured(
    "reads",
    "REST while agents report",
    {
        "policy_p95_ms": less("a policy, p95", "ms"),
        "page_p95_ms": less("a page of 100 agents, p95", "ms"),
        "failed_p95_ms": less("all failed ones of all agents, p95", "ms"),
    },
)
MEMORY: Final = Measured(
    "memory",
    "memory of the control plane (PSS)",
    {"start_mib": less("with all enrolled, none connected", "MiB"), "each_kib": less("for each connected", "KiB")},
)
STORM: Final = Measured(
    "storm",
    "killed and started again",
    {
        "seconds": less("until all are back and in sync", "s"),
        "cpu_s": less("CPU of the control plane until then", "s"),
        "agents_cpu_s": less("CPU of the agents until then", "s"),
    },
)
TAKEN_BACK: Final = Measured(
    "taken-back",
    "a rollout to all, which fails on one of a hundred agents",
    {"seconds": less("from the first failure to the last agent back on the old revision", "s")},
)
COMMANDS: Final = {
    name: Measured(
        f"commands-{name}",
        f"commands over 8 tenants, on disk ({title})",
        {"per_s": more("commands/s", "/s"), "cpu_ms": less("CPU for each, without the database server's", "ms")},
    )
    for name, title in ((SQLITE, "SQLite"), (POSTGRESQL, "PostgreSQL on the same machine"))
}
ALL: Final = (JOIN, CHANGE, REPORTS, READS, MEMORY, STORM, TAKEN_BACK, *COMMANDS.values())

GOALS: Final = (
    Goal("commit to APPLIED, p50, s (on two cores each)", FLEET, CHANGE.name, "p50_s", None, 0.6, False),
    Goal("commit to APPLIED, p99, s (on two cores each)", FLEET, CHANGE.name, "p99_s", None, 1.0, False),
    Goal("memory per connected agent, KiB", FLEET, MEMORY.name, "each_kib", None, 60.0, False),
    Goal("back and in sync after a restart, s", FLEET, STORM.name, "seconds", None, 30.0, False),
    Goal("reports, cores", FLEET, REPORTS.name, "cores", None, 1.0, False),
    Goal("commands/s, PostgreSQL", FLEET, COMMANDS[POSTGRESQL].name, "per_s", None, 1000.0, True),
    Goal("commands/s, SQLite", FLEET, COMMANDS[SQLITE].name, "per_s", None, 1500.0, True),
    Goal("a read, p95, ms", FLEET, READS.name, "policy_p95_ms", None, 10.0, False),
    Goal("a list out of all agents, p95, ms", FLEET, READS.name, "failed_p95_ms", None, 50.0, False),
    Goal("a failed gate to the last agent back, s (1,000 agents)", FLEET, TAKEN_BACK.name, "seconds", None, 2.0, False),
)
_AIM: Final = 10_000
_COLLAPSE: Final = {(CHANGE.name, "last_s"): 60.0, (STORM.name, "seconds"): 300.0, (TAKEN_BACK.name, "seconds"): 60.0}
"""Far above what a busy machine gives."""


def collapses(analysis: Analysis) -> list[str]:
    """What is so bad that it must be a mistake, in words, even on a busy machine. Nothing: all is well."""
    return beyond(_COLLAPSE, ALL, FLEET, analysis)


def document(analysis: Analysis) -> str:
    """The whole report."""
    settings = analysis.results.settings
    heading = (
        f"{machine_line(analysis)}; rounds: {settings['rounds']}, changes in each: {settings['changes']}; agents: "
        f"{settings['agents']:,}, in one process, on the CPUs {settings['agents_cpus']}; the control plane on "
        f"{settings['database']}, on the CPUs {settings['control_plane_cpus']}.{interrupted(analysis)}"
    )
    goals = goals_table(GOALS, analysis)
    if settings["agents"] != _AIM:
        goals = f"They are for {_AIM:,} agents; here were {settings['agents']:,}.\n\n{goals}"
    return report([("", heading), ("Goals", goals), ("Figures", _figures(analysis))], analysis)


def _figures(analysis: Analysis) -> str:
    rows = [
        [f"{measured.title}: {figure.title}, {figure.unit}", with_range(spread)]
        for measured in ALL
        for key, figure in measured.figures.items()
        if (spread := analysis.spread(measured.name, key, FLEET)) is not None
    ]
    return table(["", "fleet"], rows)
