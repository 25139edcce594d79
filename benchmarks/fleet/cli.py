"""``python -m benchmarks fleet``."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.analysis import Analysis
from benchmarks.command import FOLDER, end_tidily, halves, make_folder, output_option, tell
from benchmarks.errors import BenchmarkError
from benchmarks.fleet.figures import FLEET, POSTGRESQL, SQLITE, collapses, document
from benchmarks.fleet.run import Cpus, Plan, Runner
from benchmarks.measured import measuring, write
from benchmarks.report import DOCUMENT, JSON, put
from benchmarks.results import CandidateInfo, Results, load
from podlane.console import failing_clearly

_FOLDER: Final = FOLDER / "fleet"
_FULL: Final = Plan(1, 10_000, 1000, 5, 10.0, SQLITE)
_QUICK: Final = Plan(1, 500, 100, 2, 2.0, SQLITE)
BEGIN: Final = "<!-- fleet: begin (python -m benchmarks fleet --publish) -->"
END: Final = "<!-- fleet: end -->"


@click.command()
@click.option("--quick", is_flag=True, help="A minute, with few agents; fails only on a collapse.")
@click.option("--rounds", type=click.IntRange(1, 100), help=f"How often all is measured.  [default: {_FULL.rounds}]")
@click.option("--agents", type=click.IntRange(1, 20_000), help=f"Simulated ones.  [default: {_FULL.agents}]")
@click.option(
    "--failing-agents",
    type=click.IntRange(1, 20_000),
    help=f"Agents of the rollout that is taken back.  [default: {_FULL.taken_back}]",
)
@click.option("--changes", type=click.IntRange(1, 1000), help=f"Of a policy, in a round.  [default: {_FULL.changes}]")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 600), help=f"Of reports, and of commands.  [default: {_FULL.seconds:g}]"
)
@click.option(
    "--database",
    type=click.Choice([SQLITE, POSTGRESQL]),
    default=SQLITE,
    show_default=True,
    help="Of the control plane with agents. Commands are measured on both.",
)
@output_option
@click.option("--draw", is_flag=True, help="Measure nothing: write the table and the plot of the last run again.")
@click.option("--publish", is_flag=True, help="Measure nothing: put the last run into the page of benchmarks.")
def fleet(
    quick: bool,
    rounds: int | None,
    agents: int | None,
    failing_agents: int | None,
    changes: int | None,
    seconds: float | None,
    database: str,
    output: Path | None,
    draw: bool,
    publish: bool,
) -> None:
    """Measure the control plane with thousands of simulated agents, by mutual TLS on loopback. Needs no root.

    It has half of the CPUs, the agents have the others, in a process of their own.
    """
    output = output or (_FOLDER / "quick" if quick else _FOLDER)
    usual = _QUICK if quick else _FULL
    with failing_clearly():
        if draw or publish:
            results = load(output / JSON, "python -m benchmarks fleet")
            tell(_publish(results, output) if publish else write(results, output, document, _draw))
            return
        plan = Plan(
            rounds or usual.rounds,
            agents or usual.agents,
            failing_agents or usual.taken_back,
            changes or usual.changes,
            seconds or usual.seconds,
            database,
        )
        analysis = Analysis(_measure(plan, output))
        if quick and (found := collapses(analysis)):
            raise BenchmarkError("A collapse:\n" + "\n".join(found))


def _measure(plan: Plan, output: Path) -> Results:
    cpus = Cpus(*halves())
    make_folder(output)
    end_tidily()
    facts = {
        "rounds": plan.rounds,
        "agents": plan.agents,
        "changes": plan.changes,
        "seconds": plan.seconds,
        "database": plan.database,
        "control_plane_cpus": cpus.control_plane,
        "agents_cpus": cpus.agents,
    }
    results = Results(machine.describe(), facts, {FLEET: CandidateInfo("the control plane", version("podlane"))})
    with measuring(results, output, document, _draw) as progress:
        Runner(cpus, results, progress, output / JSON, plan).run()
    return results


def _draw(analysis: Analysis, folder: Path) -> list[Path]:
    """Nothing without matplotlib."""
    try:
        from benchmarks.fleet.plot import draw
    except ImportError:
        return []
    return draw(analysis, folder)


def _publish(results: Results, output: Path) -> list[Path]:
    return put(results, document(Analysis(results)), sorted(output.glob("*.svg")), DOCUMENT, BEGIN, END)
