"""The command line of the benchmark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from benchmarks import machine, report
from benchmarks.abuse.cli import abuse
from benchmarks.admission.cli import admission
from benchmarks.agent.cli import agent
from benchmarks.analysis import Analysis
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.command import FOLDER, end_tidily, make_folder, names, placement, tell
from benchmarks.errors import BenchmarkError
from benchmarks.features.cli import features
from benchmarks.fleet.cli import fleet
from benchmarks.goals import collapses
from benchmarks.kind.cli import kind
from benchmarks.metrics import METRICS, Metric
from benchmarks.plan import choose_candidates, choose_metrics
from benchmarks.progress import Progress
from benchmarks.results import Results, load
from benchmarks.runner import Runner
from benchmarks.stage import Placement
from benchmarks.web.cli import web
from daemon import log
from podlane.console import console, failing_clearly

_ROUNDS, _SECONDS = 3, 3
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 2
_QUICK_CANDIDATES: Final = ("direct-htb", "haproxy", "envoy-tcp", "podlane-relay", "podlane-step-aside")
_QUICK_METRICS: Final = ("bulk-up-1", "conn", "keepalive-50")


@click.group(invoke_without_command=True, subcommand_metavar="[admission|abuse|agent|features|fleet|kind|web ...]")
@click.option("--quick", is_flag=True, help="Under 3 minutes; fails only on a collapse.")
@click.option(
    "--rounds", type=click.IntRange(1, 100), help=f"How often all are measured in turn.  [default: {_ROUNDS}]"
)
@click.option("--seconds", type=click.IntRange(1, 60), help=f"Length of a measurement.  [default: {_SECONDS}]")
@click.option("--candidates", metavar="A,B", callback=names, help="Only these.")
@click.option("--metrics", metavar="X,Y", callback=names, help="Only these; names of metrics or of groups.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where results are written.  [default: benchmarks/results, with --quick its folder quick]",
)
@click.option("--list", "listing", is_flag=True, help="Show the candidates and the metrics, and exit.")
@click.option("--draw", is_flag=True, help="Measure nothing: write the tables and plots of the last run again.")
@click.option("--publish", is_flag=True, help="Measure nothing: put the last run's tables into the page of benchmarks.")
@click.pass_context
def main(
    context: click.Context,
    quick: bool,
    rounds: int | None,
    seconds: int | None,
    candidates: tuple[str, ...],
    metrics: tuple[str, ...],
    output: Path | None,
    listing: bool,
    draw: bool,
    publish: bool,
) -> None:
    """Measure Podlane beside its peers in network namespaces on this machine (as root).

    `admission` measures the injector instead, `agent` the node's agent, `fleet` the control plane, `web` its pages,
    `abuse` what the sidecar bears, `features` what each feature costs, `kind` real Pods in a cluster; they have options
    of their own.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    output = output or (FOLDER / "quick" if quick else FOLDER)
    with failing_clearly():
        if listing:
            _list()
        elif draw or publish:
            results = load(output / report.JSON)
            tell(report.publish(results, output) if publish else report.write(results, output))
        else:
            settings = Settings(
                choose_candidates(CANDIDATES, candidates or (_QUICK_CANDIDATES if quick else ())),
                choose_metrics(METRICS, metrics or (_QUICK_METRICS if quick else ())),
                rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
                seconds or (_QUICK_SECONDS if quick else _SECONDS),
            )
            log.configure(level="warning")
            end_tidily()
            results = _measure(settings, output, quick=quick)
            if quick and (found := collapses(Analysis(results))):
                raise BenchmarkError("A collapse:\n" + "\n".join(found))


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be measured; ``seconds`` is the length of one measurement."""

    candidates: Sequence[Candidate]
    metrics: Sequence[Metric]
    rounds: int
    seconds: int


def _measure(settings: Settings, output: Path, *, quick: bool) -> Results:
    """Run, and write what there is: also after an interruption, marked as such."""
    cpus = _placement()
    make_folder(output)
    facts = {"rounds": settings.rounds, "seconds": settings.seconds, "quick": quick, "proxy_cpu": cpus.proxy}
    results = Results(machine.describe(), facts)
    try:
        with Progress(console(error=True)) as progress:
            runner = Runner(cpus, results, progress, output / report.JSON, seconds=settings.seconds)
            runner.compare(settings.candidates, settings.metrics, settings.rounds)
            results.complete = True
    finally:
        if results.samples:
            tell(report.write(results, output))
    return results


def _placement() -> Placement:
    if os.geteuid():
        raise BenchmarkError("Network namespaces take root. Run it by `make bench`, or with sudo.")
    return placement()


def _refuse_options(context: click.Context) -> None:
    """What was written before the name of a command would be lost."""
    given = [
        parameter.opts[-1]
        for parameter in main.params
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"Write {', '.join(given)} behind {context.invoked_subcommand}, if it has such options.")


def _list() -> None:
    click.echo("Candidates:")
    for candidate in CANDIDATES.values():
        missing = candidate.missing()
        click.echo(f"  {candidate.name:<20} {f'not available: {missing}' if missing else candidate.version()}")
    click.echo("Metrics (group: names):")
    groups: dict[str, list[str]] = {}
    for metric in METRICS.values():
        groups.setdefault(metric.group, []).append(metric.name)
    for group, members in groups.items():
        click.echo(f"  {group}: {', '.join(members)}")


main.add_command(abuse)
main.add_command(admission)
main.add_command(agent)
main.add_command(features)
main.add_command(fleet)
main.add_command(kind)
main.add_command(web)
