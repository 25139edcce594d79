"""``python -m benchmarks kind``."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import machine
from benchmarks.analysis import Analysis
from benchmarks.command import FOLDER, end_tidily, make_folder, names, output_option, tell
from benchmarks.errors import BenchmarkError
from benchmarks.kind import figures, variants
from benchmarks.kind.cluster import Api, Cluster
from benchmarks.kind.figures import MEASURES
from benchmarks.kind.ground import choose_node, prepared
from benchmarks.kind.manifests import HOSTNAME, Place
from benchmarks.kind.report import publish as put_into_document
from benchmarks.kind.report import write
from benchmarks.kind.run import Plan, Runner
from benchmarks.kind.variants import VARIANTS
from benchmarks.metrics.base import GIB
from benchmarks.progress import Progress
from benchmarks.report import JSON
from benchmarks.results import CandidateInfo, Results, load
from podlane.console import console, failing_clearly
from traffic_policy.pod.quantities import Quantity

_FOLDER: Final = FOLDER / "kind"
_ROUNDS, _SECONDS, _PODS, _BURST = 3, 3, 50, 100
_QUICK_ROUNDS, _QUICK_SECONDS, _QUICK_PODS, _QUICK_BURST = 1, 1, 4, 20
_MAKE: Final = "make bench-kind"
_TOLD: Final = ("quick", "rounds", "seconds", "only", "measures", "pods", "burst")
"""Options that are published with the figures: others are names of this machine, or of somebody's cluster."""
_PODLANE, _APPLICATION = "podlane:kind", "podlane-application:kind"


@click.command(
    epilog="""\b
Variants:
"""
    + "\n".join(f"  {variant.name:<12} {variant.title}" for variant in VARIANTS.values())
    + """

\b
Measures:
"""
    + "\n".join(f"  {measured.name:<12} {measured.title}" for measured in MEASURES.values())
)
@click.option("--quick", is_flag=True, help="Small counts, some 3 minutes; exit status 1 when anything fails.")
@click.option("--context", metavar="NAME", help="Any cluster, by its context.  [default: that of kind]")
@click.option("--rounds", type=click.IntRange(1, 100), help=f"How often all take turns.  [default: {_ROUNDS}]")
@click.option("--seconds", type=click.IntRange(1, 60), help=f"Length of a load.  [default: {_SECONDS}]")
@click.option("--only", metavar="A,B", callback=names, help="Only these variants.")
@click.option("--measures", metavar="X,Y", callback=names, help="Only these measures.")
@click.option("--pods", type=click.IntRange(1, 1000), help=f"Pods of each sort that are started.  [default: {_PODS}]")
@click.option("--burst", type=click.IntRange(1, 1000), help=f"Pods created at once.  [default: {_BURST}]")
@click.option("--node", metavar="NAME", help="The node of all Pods.  [default: the first that takes Pods]")
@click.option(
    "--namespace", metavar="NAME", default="podlane-bench", show_default=True,
    help="Made for the run and removed after it; so is NAME-system, with Podlane, where that is not installed.",
)  # fmt: skip
@click.option("--podlane-image", metavar="IMAGE", default=_PODLANE, show_default=True, help="What is installed then.")
@click.option(
    "--image", metavar="IMAGE", default=_APPLICATION, show_default=True,
    help="What client and server run: with iperf3, nginx, python3 and wrk, as tests/kind/application makes it.",
)  # fmt: skip
@output_option
@click.option("--draw", is_flag=True, help="Measure nothing: write the table and the plot of the last run again.")
@click.option("--publish", is_flag=True, help="Measure nothing: put the last run into the page of benchmarks.")
def kind(
    quick: bool,
    context: str | None,
    rounds: int | None,
    seconds: int | None,
    only: tuple[str, ...],
    measures: tuple[str, ...],
    pods: int | None,
    burst: int | None,
    node: str | None,
    namespace: str,
    podlane_image: str,
    image: str,
    output: Path | None,
    draw: bool,
    publish: bool,
) -> None:
    """Measure Podlane in real Pods: of the cluster that `make kind-up` makes, or of any other.

    Client and server are Pods of one node. It takes kubectl and helm, an administrator's rights, and nodes that have,
    or can pull, the two images. Podlane is installed unless it is there.
    """
    output = output or (_FOLDER / "quick" if quick else _FOLDER)
    with failing_clearly():
        if draw or publish:
            results = load(output / JSON, _MAKE)
            tell(put_into_document(results, output) if publish else write(results, output))
            return
        plan = Plan(
            variants.choose(only),
            figures.choose(measures),
            rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
            seconds or (_QUICK_SECONDS if quick else _SECONDS),
            pods or (_QUICK_PODS if quick else _PODS),
            burst or (_QUICK_BURST if quick else _BURST),
        )
        cluster = Cluster.find(context)
        make_folder(output)
        end_tidily()
        with cluster.api() as api:
            chosen = choose_node(api, node)
            place = Place(namespace, chosen["metadata"]["name"], chosen["metadata"]["labels"][HOSTNAME], image)
            results = Results(_machine(chosen, local=cluster.is_kind), _facts(plan))
            with Progress(console(error=True)) as progress:
                _measure(cluster, api, place, podlane_image, results, progress, output, plan)
        if quick:
            _check(Analysis(results))


def _measure(
    cluster: Cluster, api: Api, place: Place, image: str, results: Results, progress: Progress, output: Path, plan: Plan
) -> None:
    """Run, and write what there is: also after an interruption, marked as such."""
    podlane = version("podlane")
    for variant in plan.variants:
        results.candidates[variant.name] = CandidateInfo(variant.title, podlane if variant.ours else "")
    try:
        agents = any(variant.agent for variant in plan.variants)
        with prepared(cluster, api, place, image, progress.say, agents=agents):
            Runner(cluster, api, place, results, progress, output / JSON, plan).run()
            results.complete = True
    finally:
        if results.samples:
            tell(write(results, output))


def _check(analysis: Analysis) -> None:
    """Raises :class:`BenchmarkError` when anything gave no figure, or no answer."""
    found = [f"{who}: {what} gave no figure: {why}" for who, what, why in analysis.failures()]
    found += [f"{who}: {count} errors in {what}." for (who, what), count in analysis.errors().items()]
    if found:
        raise BenchmarkError("\n".join(found))


def _command(context: click.Context) -> str:
    """What somebody types to measure the same."""
    options = []
    for name in _TOLD:
        if value := context.params[name]:
            words = () if value is True else (",".join(value) if isinstance(value, tuple) else str(value),)
            options += [f"--{name}", *words]
    if context.params["context"]:
        return shlex.join(["python", "-m", "benchmarks", "kind", "--context", "CONTEXT", *options])
    return _MAKE + (f" BENCH_ARGS={shlex.quote(shlex.join(options))}" if options else "")


def _facts(plan: Plan) -> dict[str, Any]:
    return {
        "command": _command(click.get_current_context()),
        "rounds": plan.rounds, "seconds": plan.seconds, "pods": plan.pods, "burst": plan.burst,
    }  # fmt: skip


def _machine(node: dict[str, Any], *, local: bool) -> dict[str, str]:
    """The node; and this machine where the node is a container of it."""
    here, there, room = machine.describe(), node["status"]["nodeInfo"], node["status"]["capacity"]
    gib = Quantity.parse(room["memory"]).value / GIB
    processor, kernel = f"{here['processor']}, " if local else "", there["kernelVersion"]
    return {
        "date": here["date"],
        "load before": here["load before"] if local else "not known",
        "kernel": kernel,
        "cpus": room["cpu"],
        "node": f"one node, {processor}{room['cpu']} CPUs, {float(gib):.1f} GiB, {there['osImage']}, Linux {kernel}",
        "kubernetes": f"Kubernetes {there['kubeletVersion']}, {there['containerRuntimeVersion']}",
    }
