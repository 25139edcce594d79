"""A run as Markdown: goals, medians, ratios, and how figures grow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from benchmarks.analysis import Analysis, Spread
from benchmarks.goals import ASIDE, EBPF, ENVOY, GOALS, HAPROXY, HTB, RELAY, SPLICING
from benchmarks.metrics import METRICS, Figure, Metric

_COMPARED: Final = ("bulk", "connections", "keepalive", "latency", "http2", "memory")
"""Groups whose figures make the big table."""
_OTHERS: Final = {
    "under-load": "Small requests while a class is saturated",
    "accuracy": "Shaping accuracy",
    "reconcile": "Reconciling",
    "detection": "Detection",
    "growth-connections": "Growth with connections",
    "growth-classes": "Growth with classes",
}
_RATIOS_TO: Final = (HAPROXY, SPLICING, ENVOY, "nginx-stream", HTB)


def number(value: float | None) -> str:
    """Three significant digits, thousands with commas."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    text = f"{value:.3g}"
    if abs(float(text)) >= 1000:
        return f"{value:,.0f}"
    if "e" not in text:
        return text
    return f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) >= 5e-7 else "0"


def with_range(spread: Spread | None) -> str:
    """The median, and the rounds' least and greatest where there are several."""
    if spread is None:
        return "–"
    if len(spread.values) == 1:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns but the first are aligned to the right."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def document(analysis: Analysis) -> str:
    """The whole report."""
    sections = [
        ("", heading(analysis)),
        ("Goals", goals(analysis)),
        ("Medians", medians(analysis, _metrics(_COMPARED))),
        ("Added latency", added_latency(analysis)),
        ("Ratios", ratios(analysis)),
        *((title, medians(analysis, _metrics((group,)))) for group, title in _OTHERS.items()),
        ("What is missing", missing(analysis)),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in sections if text) + "\n"


def heading(analysis: Analysis) -> str:
    """What was measured where, and how."""
    machine, settings = analysis.results.machine, analysis.results.settings
    versions = [
        f"{info.title} {info.version}".strip()
        for name, info in analysis.results.candidates.items()
        if info.missing is None and not name.startswith("direct")
    ]
    tools = ", ".join(machine[tool] for tool in ("wrk", "iperf3", "h2load", "nginx") if tool in machine)
    state = "" if analysis.results.complete else " **The run was interrupted.**"
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cpus']} CPUs, {machine['memory']}, "
        f"Linux {machine['kernel']}, {machine['system']}; load average before: {machine['load before']}. "
        f"Medians; interleaved rounds: {settings['rounds']}, {settings['seconds']} s per measurement.{state}\n\n"
        f"{'; '.join(versions)}. Tools: {tools}."
    )


def goals(analysis: Analysis) -> str:
    """Every goal with what the run has."""
    rows = []
    for goal in GOALS:
        met = goal.met(analysis)
        verdict = {True: "met", False: "**not met**", None: "not measured"}[met]
        peer = _title(analysis, goal.peer) if goal.peer else "by itself"
        rows.append(
            [goal.title, _title(analysis, goal.candidate), peer, goal.wanted, number(goal.value(analysis)), verdict]
        )
    return table(["figure", "of", "against", "goal", "ratio of medians", ""], rows)


def medians(analysis: Analysis, metrics: Sequence[Metric]) -> str:
    """A row per figure, a column per candidate that has any of them."""
    figures = [(m, key, f) for m in metrics for key, f in m.figures.items()]
    columns = [
        name
        for name in analysis.candidates()
        if any(analysis.spread(metric.name, key, name) for metric, key, _ in figures)
    ]
    if not columns:
        return ""
    rows = []
    for metric, key, figure in figures:
        cells = [number(analysis.median(metric.name, key, name)) for name in columns]
        if any(cell not in ("–", "0") for cell in cells):
            rows.append([label(metric, figure), *cells])
    return table(["", *(_title(analysis, name) for name in columns)], rows)


def added_latency(analysis: Analysis) -> str:
    """What a small request takes longer than directly, everybody on one CPU."""
    base = analysis.median("latency", "p50_us", "direct")
    if base is None:
        return ""
    rows = []
    for name in analysis.candidates():
        mine = analysis.median("latency", "p50_us", name)
        if mine is not None and name != "direct":
            rows.append([_title(analysis, name), number(mine), number(mine - base)])
    return table(["one connection, one CPU", "p50, µs", f"more than direct ({number(base)} µs)"], rows)


def ratios(analysis: Analysis) -> str:
    """Podlane's medians over the peers'."""
    ours = [name for name in (RELAY, ASIDE, EBPF) if name in analysis.candidates()]
    peers = [name for name in _RATIOS_TO if name in analysis.candidates()]
    rows = []
    for metric in _metrics(_COMPARED):
        for key, figure in metric.figures.items():
            cells = [number(analysis.ratio(metric.name, key, mine, peer)) for mine in ours for peer in peers]
            if any(cell != "–" for cell in cells):
                rows.append([label(metric, figure, unit=False), f"{figure.better} is better", *cells])
    if not rows:
        return ""
    heads = [f"{_title(analysis, mine)} / {_title(analysis, peer)}" for mine in ours for peer in peers]
    return table(["", "", *heads], rows)


def missing(analysis: Analysis) -> str:
    """Candidates that are not here, what they cannot do, failures and errors: nothing is left out silently."""
    return "\n".join(_missing(analysis))


def _missing(analysis: Analysis) -> Iterator[str]:
    for info in analysis.results.candidates.values():
        if info.missing:
            yield f"* {info.title}: not available. {info.missing}"
    cannot: dict[str, list[str]] = {}
    for metric, names in analysis.results.not_applicable.items():
        for name in names:
            if name != "podlane-library" and not METRICS[metric].name.startswith(("reconcile", "detection")):
                cannot.setdefault(name, []).append(metric)
    for name, metrics in cannot.items():
        yield f"* {_title(analysis, name)} cannot do: {', '.join(metrics)}."
    for name, what, why in analysis.failures():
        yield f"* {_title(analysis, name)}, {what}: {why}"
    for (name, what), count in analysis.errors().items():
        yield f"* {_title(analysis, name)}, {what}: {count:,} errors."


def _metrics(groups: Sequence[str]) -> list[Metric]:
    return [metric for metric in METRICS.values() if metric.group in groups]


def label(metric: Metric, figure: Figure, *, unit: bool = True) -> str:
    """What a figure is called in a row of a table."""
    title = f"{metric.title}: {figure.title}" if figure.partial else figure.title
    return f"{title}, {figure.unit}" if unit and figure.unit else title


def _title(analysis: Analysis, name: str) -> str:
    info = analysis.results.candidates.get(name)
    return info.title if info else name
