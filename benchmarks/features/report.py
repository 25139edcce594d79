"""What features cost, as a table, as a picture, and between two markers of docs/explanation/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.analysis import Analysis, Spread
from benchmarks.features.catalogue import FEATURES, OFF, Feature
from benchmarks.metrics import Better, Figure, Metric
from benchmarks.results import Results
from benchmarks.tables import label, number, table, with_range

BEGIN: Final = "<!-- features: begin (python -m benchmarks features --publish) -->"
END: Final = "<!-- features: end -->"
PLOT: Final = "features"


@dataclass(frozen=True, slots=True)
class Cost:
    """A figure of a feature: off, and on in one way."""

    feature: Feature
    side: str
    metric: Metric
    figure: Figure
    off: Spread
    on: Spread

    @property
    def ratio(self) -> float | None:
        """Of the medians, on over off; None where off is nothing."""
        return self.on.median / self.off.median if self.off.median else None

    @property
    def rounds(self) -> list[float]:
        """The same of each round."""
        return [on / off for off, on in zip(self.off.values, self.on.values, strict=False) if off]

    @property
    def title(self) -> str:
        """What it is, in the words of the table."""
        return label(self.metric, self.figure)


def costs(analysis: Analysis) -> Iterator[Cost]:
    """Everything that was measured with a feature and without it, in the order of the catalogue."""
    for feature, side in ((each, side) for each in FEATURES.values() for side in each.on):
        for metric in feature.metrics:
            for key, figure in feature.figures(metric).items():
                off = analysis.spread(metric.name, key, feature.label(OFF))
                on = analysis.spread(metric.name, key, feature.label(side))
                if off is not None and on is not None and (off.median or on.median):
                    yield Cost(feature, side, metric, figure, off, on)


def document(results: Results) -> str:
    """The whole report: how it was measured, and a row for each figure."""
    analysis = Analysis(results)
    machine, settings = results.machine, results.settings
    state = "" if results.complete else " **The run was interrupted.**"
    heading = (
        f"Measured on {machine['date']} by `{settings['command']}`: {machine['processor']}, {machine['cpus']} CPUs, "
        f"Linux {machine['kernel']}; load average before: {machine['load before']}. Medians of {settings['rounds']} "
        f"rounds of {settings['seconds']} s, off and on in turn, with the least and the greatest; the ratio is that of "
        f"the medians, on / off.{state}"
    )
    parts = [heading, _table(list(costs(analysis))), "\n".join(_missing(analysis))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(found: Sequence[Cost]) -> str:
    rows = []
    before: tuple[Feature, str] | None = None
    for cost in found:
        name = cost.feature.title if before is None or before[0] is not cost.feature else ""
        side = cost.side if before != (cost.feature, cost.side) else ""
        before = cost.feature, cost.side
        better = "more" if cost.figure.better is Better.MORE else "less"
        rows.append([name, side, cost.title, better, with_range(cost.off), with_range(cost.on), number(cost.ratio)])
    return table(["feature", "on", "measure", "better", "off", "on", "ratio"], rows) if rows else ""


def _missing(analysis: Analysis) -> Iterator[str]:
    """Nothing is left out silently."""
    for name, info in analysis.results.candidates.items():
        if info.missing:
            yield f"* {name}: not available. {info.missing}"
    for name, metric, why in analysis.failures():
        yield f"* {name}, {metric}: {why}"
    for (name, metric), count in analysis.errors().items():
        yield f"* {name}, {metric}: {count:,} errors."


def write(results: Results, folder: Path, json: str, markdown: str) -> list[Path]:
    """Write JSON, Markdown and, where matplotlib is installed, the plot; gives the files. Raises OSError."""
    results.write(folder / json)
    (folder / markdown).write_text(document(results))
    made = [folder / json, folder / markdown]
    try:
        from benchmarks.features import plot
    except ImportError:
        return made
    return [*made, *plot.draw(list(costs(Analysis(results))), folder, PLOT)]
