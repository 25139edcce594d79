"""What is measured of the pages, and a run as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.analysis import Analysis
from benchmarks.goals import Goal
from benchmarks.measured import Measured, beyond, goals_table, interrupted, less, machine_line, more, report
from benchmarks.tables import table, with_range

WEB: Final = "web"
LIVE, FLEET = "live", "fleet"
PAGES: Final = (LIVE, FLEET)

VIEW: Final = {
    page: Measured(
        f"view-{page}",
        f"{title}, cold",
        {
            "seconds": less("from the address to a page without placeholders", "s"),
            "shift": less("layout shift until three seconds later", ""),
            "script_kb": less("JavaScript, as it is sent", "kB"),
        },
    )
    for page, title in ((LIVE, "Live"), (FLEET, "Fleet"))
}
THREAD: Final = {
    page: Measured(
        f"thread-{page}", f"{title}, CPU slowed four times", {"ms_per_s": less("main thread, for each second", "ms")}
    )
    for page, title in ((LIVE, "Live with 20 charts at 1 Hz"), (FLEET, "Fleet with all agents"))
}
HEAP: Final = Measured(
    "heap",
    "Live, left open",
    {
        "start_mib": less("heap after garbage was collected, at first", "MiB"),
        "growth": less("its growth", "%"),
        "kept_mib": less("of it objects and texts, without code, at first", "MiB"),
        "kept_growth": less("their growth", "%"),
    },
)
LIGHTHOUSE: Final = {
    page: Measured(
        f"lighthouse-{page}",
        f"Lighthouse, {title}",
        {"performance": more("performance", ""), "accessibility": more("accessibility", ""),
         "best-practices": more("best practices", "")},
    )
    for page, title in ((LIVE, "Live"), (FLEET, "Fleet"))
}  # fmt: skip
ALL: Final = (*VIEW.values(), *THREAD.values(), HEAP, *LIGHTHOUSE.values())


def _each(group: dict[str, Measured], title: str, figure: str, limit: float, *, at_least: bool = False) -> list[Goal]:
    return [Goal(f"{page}: {title}", WEB, group[page].name, figure, None, limit, at_least) for page in PAGES]


GOALS: Final = (
    *_each(VIEW, "first view, cold, s", "seconds", 1.5),
    *_each(VIEW, "layout shift", "shift", 0.05),
    *_each(VIEW, "JavaScript of the first route, gzipped, kB", "script_kb", 200.0),
    *_each(THREAD, "main thread, CPU slowed four times, ms/s", "ms_per_s", 300.0),
    Goal("live: growth of the heap, %", WEB, HEAP.name, "growth", None, 10.0, False),
    Goal("live: growth of the heap without code, %", WEB, HEAP.name, "kept_growth", None, 10.0, False),
    *_each(LIGHTHOUSE, "Lighthouse, performance", "performance", 95.0, at_least=True),
    *_each(LIGHTHOUSE, "Lighthouse, accessibility", "accessibility", 100.0, at_least=True),
    *_each(LIGHTHOUSE, "Lighthouse, best practices", "best-practices", 100.0, at_least=True),
)
_KEPT: Final = {
    "array", "bigint", "closure", "concatenated string", "number", "object", "object shape", "regexp", "sliced string",
    "string", "symbol",
}  # fmt: skip
"""Kinds of nodes of a heap's snapshot."""
_AIM: Final = 10_000
_COLLAPSE: Final = {
    **{(VIEW[page].name, "seconds"): 30.0 for page in PAGES},
    **{(VIEW[page].name, "script_kb"): 400.0 for page in PAGES},
    **{(VIEW[page].name, "shift"): 0.5 for page in PAGES},
}
"""Far above what a busy machine gives."""


def kept_bytes(snapshot: Mapping[str, Any]) -> int:
    """What scripts have made and still hold, of a snapshot of Chromium's heap: without code, which is V8's own, and
    what is native, which is no part of the heap. Nodes are rows in one list, as its ``meta`` says."""
    fields: list[str] = snapshot["snapshot"]["meta"]["node_fields"]
    types: list[str] = snapshot["snapshot"]["meta"]["node_types"][fields.index("type")]
    kinds = snapshot["nodes"][fields.index("type") :: len(fields)]
    sizes = snapshot["nodes"][fields.index("self_size") :: len(fields)]
    return sum(size for kind, size in zip(kinds, sizes, strict=True) if types[kind] in _KEPT)


def collapses(analysis: Analysis) -> list[str]:
    """What is so bad that it must be a mistake, in words, even on a busy machine. Nothing: all is well."""
    return beyond(_COLLAPSE, ALL, WEB, analysis)


def document(analysis: Analysis) -> str:
    """The whole report."""
    settings = analysis.results.settings
    heading = (
        f"{machine_line(analysis)}; rounds: {settings['rounds']}; agents: {settings['agents']:,}, simulated, which "
        f"report 20 lanes each second; {settings['chromium']}; {settings['lighthouse']}; Live was left open for "
        f"{settings['minutes']:g} min.{interrupted(analysis)}"
    )
    goals = goals_table(GOALS, analysis)
    if settings["agents"] != _AIM or settings["minutes"] < 60:  # an hour
        goals = (
            f"They are for {_AIM:,} agents and an hour; here were {settings['agents']:,} and {settings['minutes']:g} "
            f"min.\n\n{goals}"
        )
    return report([("", heading), ("Goals", goals), ("Figures", _figures(analysis))], analysis)


def _figures(analysis: Analysis) -> str:
    rows = [
        [f"{measured.title}: {figure.title}{f', {figure.unit}' if figure.unit else ''}", with_range(spread)]
        for measured in ALL
        for key, figure in measured.figures.items()
        if (spread := analysis.spread(measured.name, key, WEB)) is not None
    ]
    return table(["", "pages"], rows)
