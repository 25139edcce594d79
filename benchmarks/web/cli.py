"""``python -m benchmarks web``."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.analysis import Analysis
from benchmarks.command import FOLDER, end_tidily, halves, make_folder, tell
from benchmarks.errors import BenchmarkError
from benchmarks.measured import measuring, write
from benchmarks.report import DOCUMENT, JSON, put
from benchmarks.results import CandidateInfo, Results, load
from benchmarks.web.figures import WEB, collapses, document
from podlane.console import failing_clearly

_FOLDER: Final = FOLDER / "web"
_ROUNDS, _AGENTS, _SECONDS, _MINUTES = 3, 10_000, 20.0, 60.0
_QUICK_ROUNDS, _QUICK_AGENTS, _QUICK_SECONDS, _QUICK_MINUTES = 1, 100, 4.0, 0.1
BEGIN: Final = "<!-- web: begin (python -m benchmarks web --publish) -->"
END: Final = "<!-- web: end -->"


@click.command()
@click.option("--quick", is_flag=True, help="A minute, with few agents, without Lighthouse; fails only on a collapse.")
@click.option("--rounds", type=click.IntRange(1, 100), help=f"How often all but memory.  [default: {_ROUNDS}]")
@click.option("--agents", type=click.IntRange(1, 20_000), help=f"Simulated ones.  [default: {_AGENTS}]")
@click.option(
    "--seconds", type=click.FloatRange(1, 600), help=f"For which a main thread is watched.  [default: {_SECONDS:g}]"
)
@click.option(
    "--minutes", type=click.FloatRange(0.05, 600), help=f"For which Live is left open.  [default: {_MINUTES:g}]"
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where results are written.  [default: benchmarks/results/web, with --quick its folder quick]",
)
@click.option("--draw", is_flag=True, help="Measure nothing: write the tables of the last run again.")
@click.option("--publish", is_flag=True, help="Measure nothing: put the last run into the page of benchmarks.")
def web(
    quick: bool,
    rounds: int | None,
    agents: int | None,
    seconds: float | None,
    minutes: float | None,
    output: Path | None,
    draw: bool,
    publish: bool,
) -> None:
    """Measure the control plane's pages in Chromium, with thousands of simulated agents. Needs no root.

    The control plane has half of the CPUs, the agents the others; the browser takes what they leave. It wants the
    pages (`make web`), Chromium and Playwright, and for its scores Lighthouse (docs/explanation/benchmarks.md).
    """
    output = output or (_FOLDER / "quick" if quick else _FOLDER)
    with failing_clearly():
        if draw or publish:
            results = load(output / JSON, "python -m benchmarks web")
            tell(_publish(results) if publish else write(results, output, document))
            return
        analysis = Analysis(
            _measure(
                rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
                agents or (_QUICK_AGENTS if quick else _AGENTS),
                seconds or (_QUICK_SECONDS if quick else _SECONDS),
                minutes or (_QUICK_MINUTES if quick else _MINUTES),
                output,
                lighthouse=not quick,
            )
        )
        if quick and (found := collapses(analysis)):
            raise BenchmarkError("A collapse:\n" + "\n".join(found))


def _measure(rounds: int, agents: int, seconds: float, minutes: float, output: Path, *, lighthouse: bool) -> Results:
    try:
        from benchmarks.web.browser import chromium, lighthouse_version
        from benchmarks.web.run import Cpus, Plan, Runner
    except ImportError:
        raise BenchmarkError("Playwright is not installed: make build") from None
    from control_plane import web_pages

    if not (web_pages.FOLDER / "index.html").exists():
        raise BenchmarkError("The pages are not built: make web")
    about = subprocess.run([chromium(), "--version"], capture_output=True, text=True, check=False).stdout
    cpus = Cpus(*halves())
    make_folder(output)
    end_tidily()
    facts = {
        "rounds": rounds,
        "agents": agents,
        "seconds": seconds,
        "minutes": minutes,
        "chromium": " ".join(about.split()[:2]) or "Chromium",
        "lighthouse": (lighthouse_version() if lighthouse else None) or "no Lighthouse",
        "control_plane_cpus": cpus.control_plane,
        "agents_cpus": cpus.agents,
    }
    results = Results(machine.describe(), facts, {WEB: CandidateInfo("the pages", version("podlane"))})
    with measuring(results, output, document) as progress:
        Runner(cpus, results, progress, output / JSON, Plan(rounds, agents, seconds, minutes, lighthouse)).run()
    return results


def _publish(results: Results) -> list[Path]:
    return put(results, document(Analysis(results)), (), DOCUMENT, BEGIN, END)
