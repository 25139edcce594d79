"""``python -m benchmarks agent``."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.agent.figures import AGENT, collapses, document
from benchmarks.agent.run import Plan, Runner
from benchmarks.analysis import Analysis
from benchmarks.command import FOLDER, end_tidily, make_folder, output_option, placement
from benchmarks.errors import BenchmarkError
from benchmarks.measured import measuring
from benchmarks.report import JSON
from benchmarks.results import CandidateInfo, Results
from podlane.console import failing_clearly
from podlane.options import choice
from traffic_policy.settings import AgentDatapath

_FOLDER: Final = FOLDER / "agent"
_FULL: Final = Plan(1, 250, 30.0, 200, 20.0)
_QUICK: Final = Plan(1, 12, 2.0, 8, 4.0)


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute, with few workloads; fails only on a collapse.")
@click.option("--rounds", type=click.IntRange(1, 100), help=f"How often all is measured.  [default: {_FULL.rounds}]")
@click.option("--workloads", type=click.IntRange(2, 1000), help=f"Network namespaces.  [default: {_FULL.workloads}]")
@click.option("--seconds", type=click.FloatRange(1, 600), help=f"How long they are idle.  [default: {_FULL.seconds:g}]")
@click.option(
    "--rate", type=click.FloatRange(0.1, 100), help=f"Namespaces per second that come.  [default: {_FULL.rate:g}]"
)
@click.option("--datapath", type=choice(AgentDatapath), default="auto", help="Of the agent.  [default: auto]")
@output_option
def agent(
    quick: bool,
    rounds: int | None,
    workloads: int | None,
    seconds: float | None,
    rate: float | None,
    datapath: str,
    output: Path | None,
) -> None:
    """Measure the node's agent: memory, CPU at rest and for each workload, adoption, workloads that come (as root).

    `podlane agent` and the programs that it runs have one CPU, everybody else another.
    """
    output = output or (_FOLDER / "quick" if quick else _FOLDER)
    usual = _QUICK if quick else _FULL
    with failing_clearly():
        if os.geteuid():
            raise BenchmarkError("Network namespaces take root. Run it by `make bench`, or with sudo.")
        plan = Plan(
            rounds or usual.rounds,
            workloads or usual.workloads,
            seconds or usual.seconds,
            usual.coming,
            rate or usual.rate,
            datapath,
        )
        analysis = Analysis(_measure(plan, output))
        if quick and (found := collapses(analysis)):
            raise BenchmarkError("A collapse:\n" + "\n".join(found))


def _measure(plan: Plan, output: Path) -> Results:
    """Run, and write what there is: also after an interruption, marked as such."""
    cpus = placement()
    make_folder(output)
    end_tidily()
    facts = {
        "rounds": plan.rounds,
        "workloads": plan.workloads,
        "seconds": plan.seconds,
        "coming": plan.coming,
        "rate": plan.rate,
        "proxy_cpu": cpus.proxy,
    }
    results = Results(machine.describe(), facts, {AGENT: CandidateInfo("the node's agent", version("podlane"))})
    with measuring(results, output, document) as progress:
        Runner(cpus, results, progress, output / JSON, plan).run()
    return results
