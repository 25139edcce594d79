"""``python -m benchmarks abuse``."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.abuse.figures import SUBJECTS, Size, broken, document
from benchmarks.abuse.run import Plan, Runner
from benchmarks.abuse.scenarios import SCENARIOS
from benchmarks.analysis import Analysis
from benchmarks.command import FOLDER, end_tidily, make_folder, names, output_option, placement
from benchmarks.errors import BenchmarkError
from benchmarks.measured import measuring
from benchmarks.report import JSON
from benchmarks.results import CandidateInfo, Results
from daemon import log
from podlane.console import failing_clearly

_FOLDER: Final = FOLDER / "abuse"
_ROUNDS, _SECONDS, _RATE, _AROUND = 1, 30.0, 500.0, 3.0
_QUICK_SECONDS, _QUICK_RATE, _QUICK_SCALE, _QUICK_AROUND = 5.0, 100.0, 0.1, 1.0
_LONGEST: Final = 24 * 3600.0


@click.command(
    epilog="""\b
Scenarios:
"""
    + "\n".join(f"  {scenario.name:<20} {scenario.title}" for scenario in SCENARIOS.values())
)
@click.option("--scenario", "chosen", metavar="A,B", callback=names, help="Only these.")
@click.option("--datapath", metavar="A,B", callback=names, help=f"Only these of {', '.join(SUBJECTS)}.")
@click.option("--quick", is_flag=True, help="A tenth of all counts, 5 s each: some 5 minutes.")
@click.option("--rounds", type=click.IntRange(1, 100), default=_ROUNDS, help=f"How often.  [default: {_ROUNDS}]")
@click.option(
    "--seconds", type=click.FloatRange(1, _LONGEST), help=f"Length of a scenario's main part.  [default: {_SECONDS:g}]"
)
@click.option(
    "--rate", type=click.FloatRange(1, 5000), help=f"Honest requests per second meanwhile.  [default: {_RATE:g}]"
)
@click.option("--scale", type=click.FloatRange(0.001, 10), help="All counts times this.  [default: 1]")
@output_option
@click.option("--strict", is_flag=True, help="Exit status 1 when a promise is not kept.")
def abuse(
    chosen: tuple[str, ...],
    datapath: tuple[str, ...],
    quick: bool,
    rounds: int,
    seconds: float | None,
    rate: float | None,
    scale: float | None,
    output: Path | None,
    strict: bool,
) -> None:
    """Hold the sidecar under load and abuse in network namespaces, and see what honest clients get (as root).

    Each scenario has a Pod with nginx and a sidecar of its own, and clients outside. It says what is promised, and
    whether that was kept.
    """
    with failing_clearly():
        size = Size(
            scale or (_QUICK_SCALE if quick else 1.0),
            seconds or (_QUICK_SECONDS if quick else _SECONDS),
            rate or (_QUICK_RATE if quick else _RATE),
            _QUICK_AROUND if quick else _AROUND,
        )
        for given, known in ((chosen, SCENARIOS), (datapath, SUBJECTS)):
            if unknown := [name for name in given if name not in known]:
                raise BenchmarkError(f"There is no {unknown[0]}. There are: {', '.join(known)}.")
        wanted = {name: s for name, s in SCENARIOS.items() if not chosen or name in chosen}
        plan = Plan(tuple(wanted.values()), datapath or tuple(SUBJECTS), rounds, size)
        if not plan.pairs:
            raise BenchmarkError(f"{', '.join(chosen)}: on {', '.join(datapath)} there is nothing to be seen of it.")
        log.configure(level="warning")
        analysis = Analysis(_measure(plan, output or (_FOLDER / "quick" if quick else _FOLDER)))
        if strict and (found := broken(analysis, wanted)):
            raise BenchmarkError("Not kept:\n" + "\n".join(found))


def _measure(plan: Plan, output: Path) -> Results:
    """Run, and write what there is: also after an interruption, marked as such."""
    if os.geteuid():
        raise BenchmarkError("Network namespaces take root. Run it by `make bench`, or with sudo.")
    cpus = placement()
    make_folder(output)
    end_tidily()
    size = plan.size
    facts = {"rounds": plan.rounds, "seconds": size.seconds, "rate": size.rate, "scale": size.scale}
    podlane = version("podlane")
    candidates = {name: CandidateInfo(title, podlane) for name, title in SUBJECTS.items()}
    results = Results(machine.describe(), facts, candidates)
    with measuring(results, output, lambda found: document(found, {s.name: s for s in plan.scenarios})) as progress:
        Runner(cpus, results, progress, output / JSON, plan).run()
    return results
