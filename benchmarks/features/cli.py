"""``python -m benchmarks features``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.command import FOLDER, end_tidily, make_folder, names, output_option, placement, tell
from benchmarks.errors import BenchmarkError
from benchmarks.features.catalogue import FEATURES, choose, plan
from benchmarks.features.report import BEGIN, END, PLOT, document, write
from benchmarks.progress import Progress
from benchmarks.report import DOCUMENT, JSON, MARKDOWN, put
from benchmarks.results import CandidateInfo, Results, load
from benchmarks.runner import Runner
from daemon import log
from podlane.console import console, failing_clearly

_FOLDER: Final = FOLDER / "features"
_ROUNDS, _SECONDS = 5, 3
_QUICK_ROUNDS, _QUICK_SECONDS = 1, 1


@click.command(
    epilog="""\b
Features:
"""
    + "\n".join(f"  {feature.name:<18} {feature.title}" for feature in FEATURES.values())
)
@click.option("--quick", is_flag=True, help="One round of short measurements: to see that all of it runs.")
@click.option("--rounds", type=click.IntRange(1, 100), help=f"How often off and on take turns.  [default: {_ROUNDS}]")
@click.option("--seconds", type=click.IntRange(1, 60), help=f"Length of a measurement.  [default: {_SECONDS}]")
@click.option("--only", metavar="A,B", callback=names, help="Only these features.")
@output_option
@click.option("--draw", is_flag=True, help="Measure nothing: write the table and the plot of the last run again.")
@click.option("--publish", is_flag=True, help="Measure nothing: put the last run's table into the page of benchmarks.")
def features(
    quick: bool,
    rounds: int | None,
    seconds: int | None,
    only: tuple[str, ...],
    output: Path | None,
    draw: bool,
    publish: bool,
) -> None:
    """Measure what each feature costs against it being off (as root): off, on, off, on ..."""
    output = output or (_FOLDER / "quick" if quick else _FOLDER)
    with failing_clearly():
        if draw or publish:
            results = load(output / JSON)
            tell(_publish(results, output) if publish else write(results, output, JSON, MARKDOWN))
            return
        if os.geteuid():
            raise BenchmarkError("Network namespaces take root. Run it by `make bench`, or with sudo.")
        log.configure(level="warning")
        end_tidily()
        _measure(
            only,
            rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
            seconds or (_QUICK_SECONDS if quick else _SECONDS),
            output,
        )


def _measure(only: tuple[str, ...], rounds: int, seconds: int, output: Path) -> None:
    """Run, and write what there is: also after an interruption, marked as such."""
    chosen = choose(only)
    cpus = placement()
    make_folder(output)
    command = f"make bench BENCH_ARGS={shlex.quote(shlex.join(sys.argv[1:]))}"
    facts = {"rounds": rounds, "seconds": seconds, "proxy_cpu": cpus.proxy, "command": command}
    results = Results(machine.describe(), facts)
    for feature in chosen:
        for side, candidate in feature.sides.items():
            missing = candidate.missing()
            version = "" if missing else candidate.version()
            results.candidates[feature.label(side)] = CandidateInfo(candidate.title, version, missing)
    try:
        with Progress(console(error=True)) as progress:
            Runner(cpus, results, progress, output / JSON, seconds=seconds).carry_out(plan(chosen, rounds))
            results.complete = True
    finally:
        if results.samples:
            tell(write(results, output, JSON, MARKDOWN))


def _publish(results: Results, folder: Path, target: Path = DOCUMENT) -> list[Path]:
    """Put a run's table into the document and its plot beside it; gives the changed files."""
    return put(results, document(results), folder.glob(f"{PLOT}.svg"), target, BEGIN, END)
