"""``python -m benchmarks admission``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.admission.figures import LOADS, Load, choose, collapses, document
from benchmarks.admission.run import Plan, Runner
from benchmarks.analysis import Analysis
from benchmarks.command import FOLDER, end_tidily, make_folder, names, output_option, placement
from benchmarks.errors import BenchmarkError
from benchmarks.measured import measuring
from benchmarks.report import JSON
from benchmarks.results import CandidateInfo, Results
from podlane.console import failing_clearly

_FOLDER: Final = FOLDER / "admission"
_ROUNDS, _SECONDS, _RATE = 3, 30.0, 200.0
_QUICK_ROUNDS, _QUICK_SECONDS = 1, 1.5
_LONGEST: Final = 600.0


@click.command(
    epilog="""\b
Loads:
"""
    + "\n".join(f"  {load.name:<14} {load.title}" for load in LOADS.values())
)
@click.option("--quick", is_flag=True, help="Some 15 seconds; fails only on a collapse.")
@click.option("--rounds", type=click.IntRange(1, 100), help=f"How often all is measured.  [default: {_ROUNDS}]")
@click.option(
    "--seconds", type=click.FloatRange(0.1, _LONGEST), help=f"Length of a load at the rate.  [default: {_SECONDS:g}]"
)
@click.option(
    "--rate", type=click.FloatRange(1, 5000), default=_RATE, help=f"Requests per second.  [default: {_RATE:g}]"
)
@click.option("--precedence", is_flag=True, help="Run before all other programs, on a machine that is shared (root).")
@click.option("--loads", metavar="A,B", callback=names, help="Only these.")
@output_option
def admission(
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    rate: float,
    precedence: bool,
    loads: tuple[str, ...],
    output: Path | None,
) -> None:
    """Measure the injector: latency of reviews, CPU, memory, size of patches. Needs no root.

    `podlane injector` runs on one CPU, a load generator on another. Each load is sent at the rate, at random times
    that do not wait for answers, and then as fast as the answers come.
    """
    output = output or (_FOLDER / "quick" if quick else _FOLDER)
    with failing_clearly():
        chosen = _chosen(loads)
        plan = Plan(
            chosen,
            rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
            seconds or (_QUICK_SECONDS if quick else _SECONDS),
            rate,
            precedence,
        )
        analysis = Analysis(_measure(plan, output, quick=quick))
        if quick and (found := collapses(analysis, rate)):
            raise BenchmarkError("A collapse:\n" + "\n".join(found))


def _chosen(wanted: Sequence[str]) -> list[Load]:
    try:
        return choose(wanted)
    except KeyError as error:
        raise BenchmarkError(f"There is no load {error.args[0]}. There are: {', '.join(LOADS)}.") from None


def _measure(plan: Plan, output: Path, *, quick: bool) -> Results:
    """Run, and write what there is: also after an interruption, marked as such."""
    cpus = placement()
    make_folder(output)
    end_tidily()
    facts = {
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "rate": plan.rate,
        "precedence": plan.precedence,
        "quick": quick,
        "proxy_cpu": cpus.proxy,
    }
    podlane = version("podlane")
    results = Results(machine.describe(), facts, {load.name: CandidateInfo(load.title, podlane) for load in plan.loads})
    with measuring(results, output, document) as progress:
        Runner(cpus, results, progress, output / JSON, plan).run()
    return results
