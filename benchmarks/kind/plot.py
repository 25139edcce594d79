"""A picture of a run in a cluster: a panel per figure, a bar per variant, every round a dot. SVG and PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Picture
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.analysis import Analysis
from benchmarks.kind.figures import MEASURES
from benchmarks.kind.variants import ASIDE, KERNEL, RELAY
from benchmarks.plots import COLOURS, DPI, STYLE, bars, footer

_COLOURS: Final = {
    RELAY.name: COLOURS["podlane-relay"],
    ASIDE.name: COLOURS["podlane-step-aside"],
    KERNEL.name: "#4a9a56",
}
_PANELS: Final = (
    ("connections", "per_s", "New connections per second"),
    ("keepalive", "per_s", "Kept-alive requests per second"),
    ("bulk", "gbit_s", "Bulk, one stream, Gbit/s"),
    ("connections", "p99_us", "New connections, p99, µs"),
    ("connections", "cpu_per_1000", "Podlane: CPU s per 1,000 connections"),
    ("usage", "after_mib", "Podlane: memory after the loads, MiB"),
    ("accuracy", "share_10", "Limit of 10 Mbit/s: measured / computed"),
    ("accuracy", "beyond_10_mib", "Limit of 10 Mbit/s: passed before it held, MiB"),
    ("startup", "ready_p50_ms", "From a Pod's creation to ready, p50, ms"),
)
_COLUMNS: Final = 3


def draw(analysis: Analysis, folder: Path, name: str) -> list[Path]:
    """Draw what there are figures for; gives the SVG file. Raises OSError when it cannot be written."""
    panels = [p for p in _PANELS if any(analysis.median(p[0], p[1], who) for who in analysis.candidates())]
    if not panels:
        return []
    with mpl.rc_context(STYLE):
        rows = -(-len(panels) // _COLUMNS)
        picture = Picture(
            figsize=(4.8 * _COLUMNS, 1.9 * rows + 0.4),
            layout=ConstrainedLayoutEngine(rect=(0, 0.04, 1, 0.96), wspace=0.06, hspace=0.06),
        )
        axes = list(picture.subplots(rows, _COLUMNS, squeeze=False).flat)
        for spot, (measure, key, title) in zip(axes, panels, strict=False):
            bars(spot, analysis, measure, key, title, MEASURES[measure].figures[key].better, _COLOURS, math.inf)
        for spot in axes[len(panels) :]:
            spot.set_visible(False)
        footer(picture, analysis, " Dots are the rounds.")
        for suffix in (".svg", ".png"):
            metadata = {"Date": None} if suffix == ".svg" else None
            picture.savefig(folder / f"{name}{suffix}", dpi=DPI, metadata=metadata, facecolor="white")
    return [folder / f"{name}.svg"]
