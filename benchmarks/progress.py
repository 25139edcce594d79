"""What somebody sees who waits: a bar at a terminal, and a line per measurement everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from benchmarks.metrics.base import Figure
from benchmarks.results import Sample


class Measured(Protocol):
    """What a measurement is called, and its figures by their keys."""

    @property
    def name(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, Figure]: ...


class Progress:
    """A context manager; the bar goes when the block ends, the lines stay."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._console = console
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, total: int) -> None:
        """So many measurements are to come, beside those that are done."""
        before = self._bar.tasks[0].total or 0
        self._bar.update(self._task, total=before + total)

    def show(self, number: int, candidate: str, metric: str) -> None:
        """What is being measured now."""
        self._bar.update(self._task, description=f"round {number}: {candidate} {metric}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def done(self, number: int, candidate: str, metric: Measured, sample: Sample) -> None:
        """A measurement has come to its end."""
        self._bar.advance(self._task)
        self.say(f"{number}  {candidate:<18} {metric.name:<22} {summary(metric, sample)}")


def summary(metric: Measured, sample: Sample) -> str:
    """A measurement in one line."""
    if sample.failure:
        return f"FAILED: {sample.failure}"
    parts = [
        f"{sample.values[key]:.4g} {figure.unit}" for key, figure in metric.figures.items() if key in sample.values
    ]
    return "  ".join(parts) + (f"  {sample.errors} errors" if sample.errors else "")
