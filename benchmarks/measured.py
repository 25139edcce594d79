"""What benchmarks of one thing share: a measurement with its figures, goals, and the report of a run. Pure, but for
:func:`measuring`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis import Analysis
from benchmarks.command import tell
from benchmarks.goals import Goal
from benchmarks.metrics.base import Better, Figure
from benchmarks.progress import Progress
from benchmarks.report import JSON, MARKDOWN
from benchmarks.results import Results
from benchmarks.tables import number, table
from podlane.console import console


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement: its name, its title, and its figures by their keys."""

    name: str
    title: str
    figures: Mapping[str, Figure]


def less(title: str, unit: str) -> Figure:
    """A figure of which less is better."""
    return Figure(title, unit, Better.LESS)


def more(title: str, unit: str) -> Figure:
    """A figure of which more is better."""
    return Figure(title, unit, Better.MORE)


def machine_line(analysis: Analysis) -> str:
    """When and on what it was measured, and how it was summed up."""
    machine = analysis.results.machine
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cpus']} CPUs, {machine['memory']}, "
        f"Linux {machine['kernel']}, {machine['system']}, Python {machine['python']}; load average before: "
        f"{machine['load before']}. Medians, and the rounds' least and greatest"
    )


def interrupted(analysis: Analysis) -> str:
    """What to add if it was."""
    return "" if analysis.results.complete else " **The run was interrupted.**"


def beyond(
    most: Mapping[tuple[str, str], float], measurements: Iterable[Measured], candidate: str, analysis: Analysis
) -> list[str]:
    """What gave no figure, and which figures are above ``most``, by names of a measurement and a figure; in words."""
    found = [f"{what} gave no figure: {why}" for _, what, why in analysis.failures()]
    for measured in measurements:
        for key, figure in measured.figures.items():
            value, limit = analysis.median(measured.name, key, candidate), most.get((measured.name, key))
            if value is not None and limit is not None and value > limit:
                found.append(f"{measured.title}: {figure.title} is {number(value)} {figure.unit}.")
    return found


def goals_table(goals: Iterable[Goal], analysis: Analysis) -> str:
    """What was to be reached, and whether it was."""
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [[goal.title, goal.wanted, number(goal.value(analysis)), words[goal.met(analysis)]] for goal in goals]
    return table(["figure", "goal", "median", ""], rows)


def report(sections: Sequence[tuple[str, str]], analysis: Analysis) -> str:
    """Sections (title and text), and what went wrong."""
    wrong = "\n".join(f"* {what}: {why}" for _, what, why in analysis.failures())
    all_of_them = [*sections, *([("What went wrong", wrong)] if wrong else [])]
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in all_of_them) + "\n"


@contextmanager
def measuring(
    results: Results,
    output: Path,
    document: Callable[[Analysis], str],
    draw: Callable[[Analysis, Path], list[Path]] | None = None,
) -> Iterator[Progress]:
    """Write what there is when the block ends: also after an interruption, marked as such."""
    try:
        with Progress(console(error=True)) as progress:
            yield progress
            results.complete = True
    finally:
        if results.samples:
            tell(write(results, output, document, draw))


def write(
    results: Results,
    output: Path,
    document: Callable[[Analysis], str],
    draw: Callable[[Analysis, Path], list[Path]] | None = None,
) -> list[Path]:
    """The files of a run. Raises OSError."""
    results.write(output / JSON)
    (output / MARKDOWN).write_text(document(Analysis(results)))
    return [output / JSON, output / MARKDOWN, *(draw(Analysis(results), output) if draw is not None else ())]
