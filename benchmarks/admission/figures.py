"""What is measured and what its figures mean, and a run as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.goals import Goal
from benchmarks.measured import goals_table, interrupted, machine_line
from benchmarks.metrics.base import Better, Figure
from benchmarks.tables import number, table, with_range

INJECTOR: Final = "injector"
"""Whose figures they are that no single load has."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent. ``traffic`` is a key of :func:`benchmarks.admission.reviews.traffic`."""

    name: str
    traffic: str
    title: str


LOADS: Final = {
    load.name: load
    for load in (
        Load("reviews", "reviews", "reviews of Pods with limits"),
        Load("untouched", "untouched", "reviews of a Pod without limits"),
        Load("health", "health", "GET /healthz: HTTP and TLS alone"),
    )
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement: its name, and its figures by their keys."""

    name: str
    figures: Mapping[str, Figure]


def _less(title: str, unit: str) -> Figure:
    return Figure(title, unit, Better.LESS)


_CPU: Final = _less("CPU per 1,000", "s")
PACED: Final = Measured(
    "paced",
    {
        "p50_ms": _less("p50", "ms"),
        "p90_ms": _less("p90", "ms"),
        "p99_ms": _less("p99", "ms"),
        "max_ms": _less("longest", "ms"),
        "per_s": Figure("answers", "/s", Better.MORE),
        "cpu_per_1000": _CPU,
        "waited_ms": _less("its threads waited for the CPU, per request", "ms"),
        "late_p99_ms": _less("the generator was late, p99", "ms"),
    },
)
"""Requests at a rate. The last two tell how busy others kept the machine."""
FLAT_OUT: Final = Measured(
    "flat-out", {"per_s": Figure("at most", "/s", Better.MORE), "p99_ms": _less("p99 then", "ms"), "cpu_per_1000": _CPU}
)
"""As many as can be, eight at once."""
MEMORY: Final = Measured(
    "memory",
    {
        "fresh_mib": _less("when it listens, PSS", "MiB"),
        "after_mib": _less("after all loads, PSS", "MiB"),
        "peak_mib": _less("at its peak, RSS", "MiB"),
    },
)
PATCH: Final = Measured("patch", {"review": _less("review", "bytes"), "patch": _less("JSON patch", "bytes")})
"""By sort of Pod, where other measurements have a load."""

GOALS: Final = (
    Goal("p99 of reviews at the rate, ms", "reviews", PACED.name, "p99_ms", None, 10.0, False),
    Goal("memory of the injector at its peak, MiB", INJECTOR, MEMORY.name, "peak_mib", None, 80.0, False),
)
_COLLAPSE_MS: Final = 1000.0
_COLLAPSE_SHARE: Final = 0.25


def collapses(analysis: Analysis, rate: float) -> list[str]:
    """What is so bad that it must be a mistake, in words, even on a busy machine. Nothing: all is well."""
    found = [f"{who}: {what} gave no figure: {why}" for who, what, why in analysis.failures()]
    found += [f"{who}: {count} wrong or missing answers ({what})." for (who, what), count in analysis.errors().items()]
    for name, load in LOADS.items():
        p99 = analysis.median(PACED.name, "p99_ms", name)
        reached = analysis.median(PACED.name, "per_s", name)
        if p99 is not None and p99 > _COLLAPSE_MS:
            found.append(f"{load.title}: p99 is {number(p99)} ms, above {number(_COLLAPSE_MS)} ms.")
        if reached is not None and reached < rate * _COLLAPSE_SHARE:
            found.append(f"{load.title}: {number(reached)} of {number(rate)} requests/s were answered.")
    return found


def document(analysis: Analysis) -> str:
    """The whole report."""
    rate = number(analysis.results.settings["rate"])
    sections = [
        ("", _heading(analysis)),
        ("Goals", goals_table(GOALS, analysis)),
        (f"At {rate} requests/s", _loads(analysis, PACED)),
        ("As many as can be", _loads(analysis, FLAT_OUT)),
        ("Memory of the injector", _memory(analysis)),
        ("Patches", _patches(analysis)),
        ("What went wrong", "\n".join(_wrong(analysis))),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in sections if text) + "\n"


def _heading(analysis: Analysis) -> str:
    settings = analysis.results.settings
    first = " The loads at the rate ran before all other programs on the machine." if settings["precedence"] else ""
    return (
        f"{machine_line(analysis)}; rounds, each with an injector of its own: {settings['rounds']}; "
        f"{settings['seconds']:g} s per load.{first}{interrupted(analysis)}"
    )


def _loads(analysis: Analysis, measured: Measured) -> str:
    """A row per figure, a column per load."""
    names = [name for name in LOADS if analysis.measured_of(name, measured.name)]
    rows = [
        [f"{figure.title}, {figure.unit}", *(_cell(analysis, measured.name, key, name) for name in names)]
        for key, figure in measured.figures.items()
    ]
    return table(["", *(LOADS[name].title for name in names)], rows) if names else ""


def _memory(analysis: Analysis) -> str:
    rows = [[f.title, _cell(analysis, MEMORY.name, key, INJECTOR)] for key, f in MEMORY.figures.items()]
    return table(["", "MiB"], rows) if analysis.measured(MEMORY.name) else ""


def _patches(analysis: Analysis) -> str:
    names = dict.fromkeys(s.candidate for s in analysis.results.samples if s.metric == PATCH.name)
    rows = [[name, *(number(analysis.median(PATCH.name, key, name)) for key in PATCH.figures)] for name in names]
    return table(["Pod", *(f"{f.title}, {f.unit}" for f in PATCH.figures.values())], rows) if rows else ""


def _wrong(analysis: Analysis) -> Iterator[str]:
    for who, what, why in analysis.failures():
        yield f"* {who}, {what}: {why}"
    for (who, what), count in analysis.errors().items():
        yield f"* {who}, {what}: {count:,} wrong or missing answers."


def _cell(analysis: Analysis, metric: str, figure: str, candidate: str) -> str:
    return with_range(analysis.spread(metric, figure, candidate))


def choose(wanted: Sequence[str]) -> list[Load]:
    """The named loads in their usual order, all when none is named. Raises KeyError with the first unknown name."""
    if unknown := [name for name in wanted if name not in LOADS]:
        raise KeyError(unknown[0])
    return [load for name, load in LOADS.items() if not wanted or name in wanted]
