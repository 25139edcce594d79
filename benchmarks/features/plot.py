"""A picture of what features cost: for each figure the ratio on / off, on a logarithmic axis with 1 in the middle.

A figure for which less is better is turned round, so that left is always worse: twice the CPU is drawn where half the
throughput is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Picture
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.features.report import Cost
from benchmarks.metrics import Better
from benchmarks.plots import COLOURS, DPI, HAIR, INK, QUIET, STYLE
from benchmarks.tables import number

_WORSE, _SAME, _BETTER = "#c94f4f", "#6b6b6b", COLOURS["podlane-relay"]
_NOTHING_LOST: Final = 0.03
"""Closer to 1 than this is drawn as no difference: rounds on an idle machine differ by as much."""
_LEAST: Final = 0.02
"""Where the axis ends: what is fifty times as bad is off the picture, and said in its number."""
_ROW_INCHES, _FRAME_INCHES = 0.27, 1.5


def draw(costs: Sequence[Cost], folder: Path, name: str) -> list[Path]:
    """Draw what there is; gives the SVG file. Raises OSError when it cannot be written."""
    drawn = [cost for cost in costs if cost.ratio]
    if not drawn:
        return []
    with mpl.rc_context(STYLE):
        picture = _picture(drawn)
        for suffix in (".svg", ".png"):
            metadata = {"Date": None} if suffix == ".svg" else None
            picture.savefig(folder / f"{name}{suffix}", dpi=DPI, metadata=metadata, facecolor="white")
    return [folder / f"{name}.svg"]


def goodness(cost: Cost, ratio: float) -> float:
    """The ratio, turned round where less is better."""
    return ratio if cost.figure.better is Better.MORE else 1 / ratio


def _picture(costs: Sequence[Cost]) -> Picture:
    picture = Picture(
        figsize=(10, _FRAME_INCHES + _ROW_INCHES * len(costs)), layout=ConstrainedLayoutEngine(rect=(0, 0, 0.99, 1))
    )
    spot = picture.subplots()
    labels = []
    below = costs[-1]
    for row, cost in enumerate(reversed(costs)):
        assert cost.ratio is not None
        middle = goodness(cost, cost.ratio)
        each = [goodness(cost, ratio) for ratio in cost.rounds if ratio]
        colour = _SAME if abs(middle - 1) < _NOTHING_LOST else _WORSE if middle < 1 else _BETTER
        spot.plot([1, max(middle, _LEAST)], [row, row], color=colour, linewidth=3, alpha=0.55, solid_capstyle="butt")
        spot.plot([value for value in each if value >= _LEAST], [row] * sum(v >= _LEAST for v in each), ".",
                  color=INK, markersize=3.5, alpha=0.5)  # fmt: skip
        spot.plot([max(middle, _LEAST)], [row], "o", color=colour, markersize=6)
        text = f"{number(cost.ratio)}  ({number(cost.off.median)} → {number(cost.on.median)})"
        spot.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), fontsize=7.5, va="center", color=QUIET)
        labels.append(f"{cost.feature.name}: {cost.side} | {cost.title}")
        if row and cost.feature is not below.feature:
            spot.axhline(row - 0.5, color=HAIR, linewidth=0.9)
        below = cost
    spot.axvline(1, color=INK, linewidth=0.9)
    spot.set_xscale("log")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    spot.xaxis.set_major_locator(FixedLocator(ticks))
    spot.xaxis.set_minor_locator(NullLocator())
    spot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    values = [max(_LEAST, goodness(cost, cost.ratio)) for cost in costs if cost.ratio]
    spot.set_xlim(min(0.45, min(values) * 0.85), max(1.4, max(values) * 1.15))
    spot.set_yticks(range(len(labels)), labels, fontsize=7.5)
    spot.set_ylim(-0.7, len(labels) - 0.3)
    spot.tick_params(length=0)
    spot.grid(axis="x", color=HAIR, linewidth=0.7)
    spot.set_axisbelow(True)
    spot.set_title("What features cost: on against off")
    spot.set_xlabel("left of 1: worse with the feature (for costs, turned round). Dots are the rounds.", color=QUIET)
    return picture
