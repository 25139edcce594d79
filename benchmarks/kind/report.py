"""A run as Markdown, as files, and between two markers of docs/explanation/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.kind import namespaces
from benchmarks.kind.figures import MEASURES
from benchmarks.kind.namespaces import Figures
from benchmarks.kind.variants import BANDWIDTH, PLAIN, VARIANTS
from benchmarks.report import DOCUMENT, JSON, MARKDOWN, put
from benchmarks.results import Results
from benchmarks.tables import number, table, with_range

BEGIN: Final = "<!-- kind: begin (python -m benchmarks kind --publish) -->"
END: Final = "<!-- kind: end -->"
PLOT: Final = "kind"
_NO_PINNING: Final = (
    "All Pods are on this one node, and nothing is pinned: client, server, sidecar, agent, kubelet and control plane "
    "share its CPUs."
)
_WHOLE_PODS: Final = (
    "The bandwidth plugin can limit a whole Pod only, and knows no names, ports or classes: each of its limits has a "
    "Pod of its own."
)


def document(results: Results, page: Figures) -> str:
    """The whole report; ``page``: what the benchmark in network namespaces has published."""
    analysis = Analysis(results)
    sections = [
        ("", _heading(results)),
        ("Medians", _medians(analysis)),
        ("Ratios of medians", _ratios(analysis)),
        ("In a cluster and in network namespaces", _beside(analysis, page)),
        ("What went wrong", "\n".join(_wrong(analysis))),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in sections if text) + "\n"


def _heading(results: Results) -> str:
    machine, settings = results.machine, results.settings
    state = "" if results.complete else " **The run was interrupted.**"
    return (
        f"Measured on {machine['date']} by `{settings['command']}`: {machine['node']}; {machine['kubernetes']}; "
        f"load average before: {machine['load before']}. Medians of {settings['rounds']} interleaved rounds, with the "
        f"least and the greatest; {settings['seconds']} s per load; {settings['pods']} Pods of each sort started one "
        f"after the other; {settings['burst']} created at once. {_NO_PINNING} {_WHOLE_PODS}{state}"
    )


def _columns(analysis: Analysis) -> list[str]:
    return [name for name in VARIANTS if any(analysis.measured_of(name, measure) for measure in MEASURES)]


def _medians(analysis: Analysis) -> str:
    """A row for each figure, a column for each variant that has any."""
    names = _columns(analysis)
    rows = []
    for measure in MEASURES.values():
        for key, figure in measure.figures.items():
            spreads = [analysis.spread(measure.name, key, name) for name in names]
            if any(spreads):
                title = f"{figure.title}, {figure.unit}" if figure.unit else figure.title
                rows.append([title, *map(with_range, spreads)])
    return table(["", *(VARIANTS[name].title for name in names)], rows) if rows else ""


def _ratios(analysis: Analysis) -> str:
    """Every variant over the Pod without anything, and Podlane over the plugin."""
    names = _columns(analysis)
    against = {PLAIN: [name for name in names if name != PLAIN.name]}
    against[BANDWIDTH] = [name for name in names if VARIANTS[name].ours]
    pairs = [(name, peer.name) for peer, ours in against.items() if peer.name in names for name in ours]
    rows = []
    for measure in MEASURES.values():
        for key, figure in measure.figures.items():
            cells = [number(analysis.ratio(measure.name, key, name, peer)) for name, peer in pairs]
            if any(cell != "–" for cell in cells) and not key.startswith(("share_", "mbit_", "beyond_", "status_")):
                rows.append([figure.title, f"{figure.better} is better", *cells])
    heads = [f"{VARIANTS[name].title} / {VARIANTS[peer].title}" for name, peer in pairs]
    return table(["", "", *heads], rows) if rows else ""


def _beside(analysis: Analysis, page: Figures) -> str:
    """The same measures here and there."""
    names = [name for name in _columns(analysis) if name in namespaces.COLUMNS]
    rows = []
    for (measure, key), there in namespaces.ROWS.items():
        cells = [
            cell
            for name in names
            for cell in (number(analysis.median(measure, key, name)), page.get((there, namespaces.COLUMNS[name]), "–"))
        ]
        if any(here != "–" for here in cells[::2]) and any(elsewhere != "–" for elsewhere in cells[1::2]):
            rows.append([there, *cells])
    heads = [f"{VARIANTS[name].title}, {where}" for name in names for where in ("cluster", "namespaces")]
    if not rows:
        return ""
    return (
        f"{table(['', *heads], rows)}\n\n"
        "In namespaces the proxy has a CPU of its own, and client and server share the other; here everybody shares "
        "both. There, by port alone is HTB without a sidecar, and CPU is the scheduler's count of threads; here it is "
        "that of the container, idle time until the kubelet's next look included."
    )


def _wrong(analysis: Analysis) -> Iterator[str]:
    """Nothing is left out silently."""
    for name, measure, why in analysis.failures():
        yield f"* {VARIANTS[name].title}, {measure}: {why}"
    for (name, measure), count in analysis.errors().items():
        yield f"* {VARIANTS[name].title}, {measure}: {count:,} errors."


def write(results: Results, folder: Path, page: Path = DOCUMENT) -> list[Path]:
    """Write JSON, Markdown and, where matplotlib is installed, the plot; gives the files. Raises OSError."""
    results.write(folder / JSON)
    (folder / MARKDOWN).write_text(document(results, _figures_of(page.read_text())))
    made = [folder / JSON, folder / MARKDOWN]
    try:
        from benchmarks.kind import plot
    except ImportError:
        return made
    return [*made, *plot.draw(Analysis(results), folder, PLOT)]


def publish(results: Results, folder: Path, target: Path = DOCUMENT) -> list[Path]:
    """Put a run's tables into the document and its plot beside it; gives the changed files. Raises BenchmarkError."""
    tables = document(results, _figures_of(target.read_text()))
    return put(results, tables, folder.glob(f"{PLOT}.svg"), target, BEGIN, END)


def _figures_of(text: str) -> Figures:
    """What the page has, without what this benchmark itself has put there."""
    head, _, rest = text.partition(BEGIN)
    return namespaces.published(head + rest.partition(END)[2])
