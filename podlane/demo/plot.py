"""Draws a recorded part of the demo: for each direction all classes together, then each class. SVG and PNG by
matplotlib.

Every panel has the same scale, so that bandwidths can be compared; the height of a panel follows its class's limits.
Lines are labelled in place of a legend.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import patheffects
from matplotlib.figure import Figure

from podlane.demo.recording import Recording
from podlane.demo.scenario import Client, DemoLane, TransferDirection, TransferKind
from traffic_policy.policy import ResolvedClass

_INK: Final = "#222222"
_QUIET: Final = "#6b6b6b"
_HAIR: Final = "#d9d9d9"
_WIDTH_INCHES: Final = 10.0
_INCHES_PER_MBIT: Final = 0.0155
_GAP_INCHES: Final = 0.38
"""Between two panels: room for one line of title."""
_TOP_INCHES, _BOTTOM_INCHES, _LEFT_INCHES, _RIGHT_INCHES = 1.3, 0.62, 0.62, 1.18
_HEADROOM_MBIT: Final = 8.0
"""Above a panel's highest limit, so that its line is not the frame."""
_LABEL_MBIT: Final = 12.0
"""A layer of the first panel lower than this has no room for its name."""
_STEP_MBIT: Final = 4.0
"""What a layer moves by from one reading to the next when lanes come or go; in between it wavers by less."""
_DPI: Final = 160
_CURVE_SECONDS: Final = 0.5
"""Rates drawn are means over this, centred: shorter shows single segments, longer blurs the moments of change."""
_STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _QUIET,
    "axes.linewidth": 0.7,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    # The same recording gives the same file.
    "svg.hashsalt": "podlane",
}
_TOGETHER: Final = {
    TransferDirection.SENT: "sent by the Pod: all lanes together",
    TransferDirection.RECEIVED: "received by the Pod: all lanes together",
}
_KINDS: Final = {
    TransferKind.UPLOAD: "",
    TransferKind.ANSWER: "answers, by ",
    TransferKind.DOWNLOAD: "download, by ",
    TransferKind.REQUEST: "request on a kept connection, by ",
}
_CRITERIA: Final = {
    "sni": "TLS server name",
    "host": "HTTP/1.1 Host",
    ":authority": "HTTP/2 :authority",
    "port": "TCP port",
}


def draw(recording: Recording, paths: Sequence[Path]) -> None:
    """Draw into every path, in the format its suffix names. Raises OSError when one cannot be written."""
    with mpl.rc_context(_STYLE):
        figure = _figure(recording)
        for path in paths:
            # Without the date that matplotlib puts into SVG files.
            metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(path, dpi=_DPI, metadata=metadata, facecolor="white")


def _figure(recording: Recording) -> Figure:
    scenario = recording.scenario
    drawn: list[TransferDirection | DemoLane] = []
    for way in scenario.totals:
        drawn += [way, *scenario.on(way)]
    heights = [_top(recording, what) for what in drawn]
    panels_inches = sum(heights) * _INCHES_PER_MBIT + _GAP_INCHES * (len(heights) - 1)
    height = panels_inches + _TOP_INCHES + _BOTTOM_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height))
    layout = {
        "height_ratios": heights,
        "hspace": _GAP_INCHES / (sum(heights) * _INCHES_PER_MBIT / len(heights)),
        "left": _LEFT_INCHES / _WIDTH_INCHES,
        "right": 1 - _RIGHT_INCHES / _WIDTH_INCHES,
        "top": 1 - _TOP_INCHES / height,
        "bottom": _BOTTOM_INCHES / height,
    }
    panels = figure.subplots(len(drawn), sharex=True, squeeze=False, gridspec_kw=layout)[:, 0].tolist()
    panels[0].set_xlim(0, scenario.seconds)
    for axes, top in zip(panels, heights, strict=True):
        axes.set_ylim(0, top)
        axes.set_yticks(range(0, int(top) + 1, 50 if top > 60 else 20))
        axes.tick_params(length=3, width=0.7)
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("seconds", color=_QUIET, fontsize=8.5)
    for axes, what in zip(panels, drawn, strict=True):
        if isinstance(what, TransferDirection):
            _draw_total(axes, recording, what)
        else:
            _draw_lane(axes, recording, what)
    _draw_events(panels, recording)
    _draw_heading(figure, height, recording)
    return figure


def _top(recording: Recording, what: TransferDirection | DemoLane) -> float:
    """Where a panel ends, in Mbit/s."""
    scenario = recording.scenario
    if isinstance(what, TransferDirection):
        return scenario.totals[what].bits_per_second / 1e6 + _HEADROOM_MBIT
    highest = max(_mbit(limits[what.name])[1] for limits in (scenario.before, scenario.after))
    measured = max((rate / 1e6 for _, rate in recording.curve(what.name, _CURVE_SECONDS)), default=0.0)
    return max(highest, measured) + _HEADROOM_MBIT


def _draw_heading(figure: Figure, height: float, recording: Recording) -> None:
    x = _LEFT_INCHES / _WIDTH_INCHES
    scenario = recording.scenario
    totals = [total.human for total in scenario.totals.values()]
    shared = totals[0] if len(totals) == 1 else f"{totals[0]} out and {totals[1]} in"
    title = scenario.part.title if scenario.part.pods else f"{scenario.part.title}, sharing {shared}"
    figure.text(x, 1 - 0.30 / height, title, fontsize=14, fontweight="bold", color=_INK, va="center")
    subtitle = (
        f"{scenario.part.subtitle}, in Mbit/s as the kernel counts them (half-second means). "
        "Every panel has the same scale."
    )
    figure.text(x, 1 - 0.57 / height, subtitle, fontsize=9, color=_QUIET, va="center")


def _draw_total(axes: Any, recording: Recording, way: TransferDirection) -> None:
    lanes = recording.scenario.on(way)
    curves = [[rate / 1e6 for _, rate in recording.curve(lane.name, _CURVE_SECONDS)] for lane in lanes]
    times = [time for time, _ in recording.curve(lanes[0].name, _CURVE_SECONDS)]
    axes.stackplot(times, *curves, colors=[lane.colour for lane in lanes], linewidth=0.4, edgecolor="white")
    for index, lane in enumerate(lanes):
        _label_layer(axes, lane.name, times, curves, index)
    total = recording.scenario.totals[way].bits_per_second / 1e6
    axes.axhline(total, color=_INK, linewidth=1.1)
    _beside(axes, total, f"total {total:g}")
    title = "all lanes together" if len(recording.scenario.totals) == 1 else _TOGETHER[way]
    axes.set_title(title, loc="left", fontsize=9.5, color=_INK, fontweight="bold", pad=4)


def _label_layer(axes: Any, name: str, times: Sequence[float], curves: Sequence[Sequence[float]], index: int) -> None:
    """Write a lane's name into the middle of the longest stretch where its layer is as high as it ever gets.

    The layers below must keep still there as well: a name beside a step would be written over the layer's edge.
    """
    curve = curves[index]
    below = [sum(others) for others in zip(*curves[:index], strict=True)] if index else [0.0] * len(curve)
    steps = (abs(after - before) for before, after in itertools.pairwise([*below[:1], *below]))
    at = plateau_middle([rate if step < _STEP_MBIT else 0.0 for rate, step in zip(curve, steps, strict=True)])
    if at is None or curve[at] < _LABEL_MBIT:
        return
    middle = below[at] + curve[at] / 2
    style = {"color": "white", "fontsize": 9, "fontweight": "bold", "ha": "center", "va": "center"}
    axes.text(times[at], middle, name, **style)


def plateau_middle(values: Sequence[float]) -> int | None:
    """The index in the middle of the longest run of values within 10 % of the highest; None when there is none."""
    high = [value >= 0.9 * max(values) for value in values]
    runs = [list(run) for is_high, run in itertools.groupby(range(len(values)), key=high.__getitem__) if is_high]
    longest = max(runs, key=len, default=None)
    return None if longest is None else longest[len(longest) // 2]


def _draw_lane(axes: Any, recording: Recording, lane: DemoLane) -> None:
    colour = lane.colour
    curve = list(recording.curve(lane.name, _CURVE_SECONDS))
    # From where it joins: a line along zero before that says nothing.
    first = next((index for index, (_, rate) in enumerate(curve) if rate > 0), len(curve))
    points = curve[max(0, first - 1) :]
    times, rates = [time for time, _ in points], [rate / 1e6 for _, rate in points]
    axes.fill_between(times, rates, color=colour, alpha=0.22, linewidth=0)
    axes.plot(times, rates, color=colour, linewidth=1.7, solid_joinstyle="round")
    scenario = recording.scenario
    (rate0, ceil0), (rate1, ceil1) = _mbit(scenario.before[lane.name]), _mbit(scenario.after[lane.name])
    planned = scenario.seconds if scenario.change_at is None else scenario.change_at
    change = planned if recording.changed_at is None else recording.changed_at
    steps = [0, change, scenario.seconds]
    axes.step(steps, [ceil0, ceil1, ceil1], where="post", color=_INK, linewidth=1.1)
    axes.step(steps, [rate0, rate1, rate1], where="post", color=_INK, linewidth=1.0, linestyle=(0, (4, 2.5)))
    _beside(axes, ceil1, f"ceil {ceil1:g}")
    _beside(axes, rate1, f"guaranteed {rate1:g}")
    for word, before, after in (("ceil", ceil0, ceil1), ("guaranteed", rate0, rate1)):
        if before != after:
            _inside(axes, change, before, f"{word} {before:g}")
    axes.set_title(
        f"{lane.pod}: {lane.name}" if lane.pod else lane.name,
        loc="left",
        fontsize=9.5,
        color=colour,
        fontweight="bold",
        pad=4,
    )
    told_by = "upload by QUIC, by its server name" if lane.client is Client.QUIC else _CRITERIA[lane.criterion]
    text = f"{_KINDS[lane.kind]}{told_by} {lane.value}{lane.note and f' ({lane.note})'}"
    _note(axes, text, (0, 1), (105 if lane.pod else 58, 4), xycoords="axes fraction", color=_QUIET, va="baseline")


def _draw_events(panels: Sequence[Any], recording: Recording) -> None:
    for index, span in enumerate(recording.scenario.spans):
        change = span.phase.change_limits
        time = recording.changed_at if change and recording.changed_at is not None else span.start
        for axes in panels if index else ():
            style = (
                {"color": _INK, "linewidth": 1.0, "zorder": 3}
                if change
                else {"color": _HAIR, "linewidth": 0.8, "zorder": 0}
            )
            axes.axvline(time, **style)
        weight = "bold" if change else "normal"
        above = ("data", "axes fraction")
        _note(panels[0], span.phase.name, (time, 1), (0, 20), xycoords=above, fontweight=weight, va="bottom")


def _beside(axes: Any, y: float, text: str) -> None:
    _note(axes, text, (1, y), (5, 0), xycoords=("axes fraction", "data"), va="center")


def _inside(axes: Any, x: float, y: float, text: str) -> None:
    halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    _note(axes, text, (x, y), (-4, 3), ha="right", va="bottom", path_effects=halo)


def _note(axes: Any, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Small text, ``offset`` points away from a place."""
    axes.annotate(text, at, offset, **{"textcoords": "offset points", "fontsize": 8.5, "color": _INK, **style})


def _mbit(limits: ResolvedClass) -> tuple[float, float]:
    return limits.rate.bits_per_second / 1e6, limits.ceil.bits_per_second / 1e6
