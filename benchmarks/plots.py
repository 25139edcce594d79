"""A run as pictures: the candidates side by side, latency under load, and growth. SVG and PNG by matplotlib.

Podlane is in colour and peers are grey, so that one sees at once where it stands; every round is a dot beside the bar
of the median, so that one sees how far to trust it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.analysis import Analysis
from benchmarks.metrics import METRICS, Better
from benchmarks.metrics.control import CLASSES
from benchmarks.metrics.growth import CONNECTIONS
from benchmarks.metrics.shaping import LATENCY_RATES
from benchmarks.tables import number

INK, QUIET, _PEER, HAIR = "#222222", "#6b6b6b", "#b9bec5", "#e4e4e4"
COLOURS: Final = {"podlane-relay": "#1f6fb4", "podlane-step-aside": "#e07b00"}
_LINES: Final = {
    **COLOURS,
    "direct": "#222222", "direct-htb": "#777777", "haproxy": "#4a9a56", "envoy-tcp": "#a05fb0",
    "envoy-hcm": "#c79ad0", "nginx-stream": "#8a6d3b", "mitmproxy": "#c94f4f",
}  # fmt: skip
DPI: Final = 150
_OUTLIER: Final = 3.0
"""A bar this many times as long as the second longest would make all others unreadable."""
STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": QUIET,
    "ytick.color": INK,
    "svg.hashsalt": "podlane",  # the same results give the same file
}
_OVERVIEW: Final = (
    ("conn", "per_s", "New connections per second"),
    ("keepalive-50", "per_s", "Kept-alive requests per second, 50 connections"),
    ("bulk-up-1", "gbit_s", "Bulk, one stream, Gbit/s"),
    ("conn", "cpu_per_1000", "CPU seconds per 1,000 new connections"),
    ("bulk-up-1", "cpu_per_gib", "CPU seconds per GiB, one stream"),
    ("memory", "mib_per_1000", "MiB per 1,000 idle connections"),
)


def draw(analysis: Analysis, folder: Path) -> list[Path]:
    """Draw what there are figures for; gives the SVG files. Raises OSError when one cannot be written."""
    made = []
    pictures: tuple[tuple[str, Callable[[Analysis], Picture | None]], ...] = (
        ("overview", overview),
        ("under-load", under_load),
        ("growth", growth),
    )
    with mpl.rc_context(STYLE):
        for name, make in pictures:
            picture = make(analysis)
            if picture is None:
                continue
            for suffix in (".svg", ".png"):
                metadata = {"Date": None} if suffix == ".svg" else None
                picture.savefig(folder / f"{name}{suffix}", dpi=DPI, metadata=metadata, facecolor="white")
            made.append(folder / f"{name}.svg")
    return made


def _title(analysis: Analysis, name: str) -> str:
    return analysis.results.candidates[name].title


def _layout() -> ConstrainedLayoutEngine:
    """Room between the panels, and for the footer below them."""
    return ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95), wspace=0.06, hspace=0.07)


def footer(picture: Picture, analysis: Analysis, more: str = "") -> None:
    """When and where it was measured, below the panels."""
    machine, settings = analysis.results.machine, analysis.results.settings
    text = (
        f"{machine['date']}, Linux {machine['kernel']}, {machine['cpus']} CPUs. "
        f"Medians; interleaved rounds: {settings['rounds']}.{more}"
    )
    picture.text(0.01, 0.008, text, fontsize=7.5, color=QUIET)


def overview(analysis: Analysis) -> Picture | None:
    """Bars: a panel per figure, a bar per candidate."""
    panels = [p for p in _OVERVIEW if any(analysis.spread(p[0], p[1], name) for name in analysis.candidates())]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    picture = Picture(
        figsize=(4.6 * columns, 2.9 * rows + 0.3),
        layout=ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97), wspace=0.06, hspace=0.06),
    )
    axes = picture.subplots(rows, columns, squeeze=False)
    for spot, (metric, figure, title) in zip(axes.flat, panels, strict=False):
        bars(spot, analysis, metric, figure, title, METRICS[metric].figures[figure].better)
    for spot in list(axes.flat)[len(panels) :]:
        spot.set_visible(False)
    footer(picture, analysis, " Dots are the rounds.")
    return picture


def bars(
    spot: Axes,
    analysis: Analysis,
    metric: str,
    figure: str,
    title: str,
    better: Better,
    colours: Mapping[str, str] = COLOURS,
    outlier: float = _OUTLIER,
) -> None:
    """A panel: a bar per candidate that has the figure, with a dot per round. Who has no colour is grey.

    A bar ``outlier`` times as long as the second longest runs out of the panel.
    """
    # Nothing used is nothing to draw: candidates without a process have no CPU time of their own.
    names = [name for name in reversed(analysis.candidates()) if analysis.median(metric, figure, name)]
    spreads = [spread for name in names if (spread := analysis.spread(metric, figure, name))]
    end = _end_of_axis([spread.high for spread in spreads], outlier)
    for row, (name, spread) in enumerate(zip(names, spreads, strict=True)):
        spot.barh(row, min(spread.median, end), height=0.62, color=colours.get(name, _PEER))
        shown = [value for value in spread.values if value <= end]
        spot.plot(shown, [row] * len(shown), ".", color=INK, markersize=3.5, alpha=0.6)
        beyond = spread.median > end
        spot.annotate(
            f"{number(spread.median)} \u2192" if beyond else number(spread.median),
            (min(spread.high, end), row),
            (-4 if beyond else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if beyond else "left",
            fontsize=8,
        )
    spot.set_yticks(range(len(names)), [_title(analysis, name) for name in names])
    for label, name in zip(spot.get_yticklabels(), names, strict=True):
        label.set_color(colours.get(name, INK))
    spot.set_xlim(0, end)
    spot.xaxis.set_major_locator(MaxNLocator(4))
    spot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    spot.tick_params(length=0)
    spot.grid(axis="x", color=HAIR, linewidth=0.7)
    spot.set_axisbelow(True)
    spot.set_title(title)
    spot.set_xlabel(f"{better} is better", color=QUIET, fontsize=8, loc="right")


def _end_of_axis(highs: Sequence[float], outlier: float) -> float:
    """Where an axis ends: room for the longest bar's number; a bar several times the second longest runs out of it."""
    ordered = sorted(highs)
    longest = ordered[-1]
    if len(ordered) > 1 and longest > outlier * ordered[-2] > 0:
        longest = ordered[-2] * 1.15
    return longest * 1.22


def under_load(analysis: Analysis) -> Picture | None:
    """A small request inside a saturated class and beside it: p50 to p99 as a line, for each rate."""
    rates = [rate for rate in LATENCY_RATES if analysis.measured(f"under-load-{rate}")]
    if not rates:
        return None
    names = [
        n for n in analysis.candidates() if any(analysis.spread(f"under-load-{r}", "inside_p50_ms", n) for r in rates)
    ]
    picture = Picture(
        figsize=(9.5, 1.6 + 0.42 * len(names) * len(rates)),
        layout=ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95), wspace=0.05),
    )
    axes = picture.subplots(1, 2, sharex=True, sharey=True)
    for spot, where, title in zip(axes, ("inside", "beside"), ("Inside the saturated class", "Beside it"), strict=True):
        labels = []
        for row, (rate, name) in enumerate((r, n) for r in reversed(rates) for n in reversed(names)):
            labels.append(f"{rate} Mbit/s, {_title(analysis, name)}")
            p50 = analysis.median(f"under-load-{rate}", f"{where}_p50_ms", name)
            p99 = analysis.median(f"under-load-{rate}", f"{where}_p99_ms", name)
            if p50 is None or p99 is None:
                continue
            colour = _LINES.get(name, _PEER)
            spot.plot([p50, p99], [row, row], color=colour, linewidth=2.2, solid_capstyle="round", alpha=0.55)
            spot.plot([p50], [row], "o", color=colour, markersize=6)
            spot.plot([p99], [row], "|", color=colour, markersize=10, markeredgewidth=2)
            text = f"{number(p50)} – {number(p99)}"
            spot.annotate(text, (p99, row), (7, 0), textcoords="offset points", va="center", fontsize=8)
        spot.set_xscale("log")
        spot.set_yticks(range(len(labels)), labels)
        spot.set_ylim(-0.7, len(labels) - 0.3)
        spot.grid(axis="x", color=HAIR, linewidth=0.7)
        spot.tick_params(axis="y", length=0)
        spot.set_title(title)
        spot.set_xlabel("milliseconds: dot p50, bar p99", color=QUIET)
        spot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(low, high * 6)
    footer(picture, analysis)
    return picture


def growth(analysis: Analysis) -> Picture | None:
    """Lines over the number of connections and of classes."""
    panels = [
        ("growth-connections-{}", CONNECTIONS, "per_s", "Kept-alive requests per second", "connections"),
        ("growth-connections-{}", CONNECTIONS, "p99_us", "Their p99, µs", "connections"),
        ("growth-classes-conn-{}", CLASSES, "per_s", "New connections per second", "classes"),
        ("growth-classes-keepalive-{}", CLASSES, "per_s", "Kept-alive requests per second, 50 connections", "classes"),
    ]
    panels = [p for p in panels if any(analysis.measured(p[0].format(count)) for count in p[1])]
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    picture = Picture(
        figsize=(11, 3.3 * rows + 0.3),
        layout=ConstrainedLayoutEngine(rect=(0, 0.03, 0.99, 0.97), wspace=0.06, hspace=0.08),
    )
    axes = picture.subplots(rows, 2, squeeze=False)
    for spot, (pattern, counts, figure, title, along) in zip(axes.flat, panels, strict=False):
        _lines(spot, analysis, [pattern.format(count) for count in counts], counts, figure)
        spot.set_title(title)
        spot.set_xlabel(along, color=QUIET)
    for spot in list(axes.flat)[len(panels) :]:
        spot.set_visible(False)
    handles = {h.get_label(): h for spot in axes.flat for h in spot.get_lines()}
    picture.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, frameon=False, fontsize=8.5)
    footer(picture, analysis)
    return picture


def _lines(spot: Axes, analysis: Analysis, metrics: Sequence[str], counts: Sequence[int], figure: str) -> None:
    for name in analysis.candidates():
        points = [(count, analysis.median(metric, figure, name)) for count, metric in zip(counts, metrics, strict=True)]
        known = [(count, value) for count, value in points if value is not None]
        if not known:
            continue
        width = 2.2 if name in COLOURS else 1.3
        colour = _LINES.get(name, _PEER)
        spot.plot(
            *zip(*known, strict=True), "o-", color=colour, linewidth=width, markersize=3.5, label=_title(analysis, name)
        )
    spot.set_xscale("log")
    spot.set_xticks(counts, [f"{count:,}" for count in counts])
    spot.minorticks_off()
    if METRICS[metrics[0]].figures[figure].unit == "µs":
        spot.set_yscale("log")
    else:
        spot.set_ylim(bottom=0)
    spot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    spot.grid(color=HAIR, linewidth=0.7)
    spot.tick_params(length=0)
