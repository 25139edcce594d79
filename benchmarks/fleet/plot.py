"""A picture of a run: each figure as a share of what it may be, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Picture
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.analysis import Analysis
from benchmarks.fleet.figures import GOALS
from benchmarks.plots import COLOURS, DPI, HAIR, INK, STYLE, footer
from benchmarks.tables import number

_MET, _MISSED = COLOURS["podlane-relay"], "#c94f4f"
_NAME: Final = "fleet"
_TICKS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def draw(analysis: Analysis, folder: Path) -> list[Path]:
    """Draw what there is; gives the SVG file. Raises OSError when it cannot be written."""
    found = [(goal, value) for goal in GOALS if (value := goal.value(analysis))]
    if not found:
        return []
    with mpl.rc_context(STYLE):
        picture = Picture(
            figsize=(9, 1.3 + 0.3 * len(found)), layout=ConstrainedLayoutEngine(rect=(0, 0.05, 0.98, 0.95))
        )
        spot = picture.subplots()
        for row, (goal, value) in enumerate(reversed(found)):
            share = goal.limit / value if goal.at_least else value / goal.limit
            spot.barh(row, max(share, _TICKS[0]), color=_MET if goal.met(analysis) else _MISSED, height=0.6)
            text = f"{number(value)}  ({goal.wanted})"
            spot.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), fontsize=7.5, va="center")
        spot.set_yticks(range(len(found)), [goal.title for goal, _ in reversed(found)], fontsize=7.5)
        spot.axvline(1, color=INK, linewidth=0.9)
        spot.set_xscale("log")
        spot.set_xlim(0.04, 12)
        spot.xaxis.set_major_locator(FixedLocator(_TICKS))
        spot.xaxis.set_minor_locator(NullLocator())
        spot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        spot.tick_params(length=0)
        spot.grid(axis="x", color=HAIR, linewidth=0.7)
        spot.set_axisbelow(True)
        spot.set_title(f"{analysis.results.settings['agents']:,} agents: each figure's share of what it may be")
        footer(picture, analysis)
        for suffix in (".svg", ".png"):
            metadata = {"Date": None} if suffix == ".svg" else None
            picture.savefig(folder / f"{_NAME}{suffix}", dpi=DPI, metadata=metadata, facecolor="white")
    return [folder / f"{_NAME}.svg"]
