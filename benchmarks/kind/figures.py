"""What is measured, and what its figures mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.kind.variants import RATES
from benchmarks.metrics.base import Better, Figure


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement: its name, what it is, and its figures by their keys."""

    name: str
    title: str
    figures: Mapping[str, Figure]


def _less(title: str, unit: str) -> Figure:
    return Figure(title, unit, Better.LESS)


def _more(title: str, unit: str) -> Figure:
    return Figure(title, unit, Better.MORE)


CPU: Final = {"connections": "cpu_per_1000", "keepalive": "cpu_per_1000", "bulk": "cpu_per_gib"}
"""The figure of a load that the kubelet's count of CPU time makes."""

CONNECTIONS: Final = Measured(
    "connections",
    "new connections, a request each, 50 at once",
    {
        "per_s": _more("new connections", "connections/s"),
        "p50_us": _less("new connections, p50", "µs"),
        "p99_us": _less("new connections, p99", "µs"),
        CPU["connections"]: _less("Podlane's CPU per 1,000 connections", "s"),
    },
)
KEEP_ALIVE: Final = Measured(
    "keepalive",
    "requests on 50 kept connections",
    {
        "per_s": _more("keep-alive requests, 50 connections", "requests/s"),
        "p50_us": _less("keep-alive requests, 50 connections, p50", "µs"),
        "p99_us": _less("keep-alive requests, 50 connections, p99", "µs"),
        CPU["keepalive"]: _less("Podlane's CPU per 1,000 requests", "s"),
    },
)
BULK: Final = Measured(
    "bulk",
    "one stream as fast as it can",
    {"gbit_s": _more("bulk up, 1 stream", "Gbit/s"), CPU["bulk"]: _less("Podlane's CPU per GiB", "s")},
)
ACCURACY: Final = Measured(
    "accuracy",
    "limits of 10 and 100 Mbit/s, both in use",
    {
        key: figure
        for mbit in RATES
        for key, figure in {
            f"share_{mbit}": _more(f"{mbit} Mbit/s: measured / computed", ""),
            f"mbit_{mbit}": _more(f"{mbit} Mbit/s: goodput", "Mbit/s"),
            f"beyond_{mbit}_mib": _less(f"{mbit} Mbit/s: passed at first beyond the limit", "MiB"),
        }.items()
    },
)
USAGE: Final = Measured(
    "usage",
    "CPU and memory of the sidecar, or of the node's agent, as the kubelet counts them",
    {
        "start_cpu_s": _less("Podlane's CPU for its start", "s"),
        "fresh_mib": _less("Podlane's memory when it has started (working set)", "MiB"),
        "after_mib": _less("Podlane's memory after the loads (working set)", "MiB"),
        "resident_mib": _less("Podlane's resident memory after the loads (RSS)", "MiB"),
    },
)
STARTUP: Final = Measured(
    "startup",
    "from a Pod's creation until it is ready",
    {
        "ready_p50_ms": _less("from creation to ready, p50", "ms"),
        "ready_p99_ms": _less("from creation to ready, p99", "ms"),
        "status_p50_s": _less("the same by the Pod's own status, whole seconds, p50", "s"),
        "status_p99_s": _less("the same by the Pod's own status, whole seconds, p99", "s"),
    },
)
ADMISSION: Final = Measured(
    "admission",
    "Pods created at once",
    {
        "create_p50_ms": _less("creation as its client sees it, p50", "ms"),
        "create_p99_ms": _less("creation as its client sees it, p99", "ms"),
        **{
            f"{verb}_{key}": _less(f"{title}, by the API server's metrics, {words}", "ms")
            for verb, title in (("inject", "mutating webhook"), ("validate", "validating webhook"))
            for key, words in (("mean_ms", "mean"), ("p50_ms", "p50"), ("p99_ms", "p99"))
        },
    },
)
END: Final = Measured("the end of its Pods", "what can fail when all is measured", {})
PER_TURN: Final = (CONNECTIONS, KEEP_ALIVE, BULK, ACCURACY, USAGE)
ONCE: Final = (STARTUP, ADMISSION)
MEASURES: Final = {measured.name: measured for measured in (*PER_TURN, *ONCE)}


def choose(wanted: Sequence[str]) -> list[Measured]:
    """The named measurements in their usual order, all when none is named. Raises :class:`BenchmarkError`."""
    if unknown := [name for name in wanted if name not in MEASURES]:
        raise BenchmarkError(f"There is no measure {', '.join(unknown)}. There are: {', '.join(MEASURES)}.")
    return [measured for name, measured in MEASURES.items() if not wanted or name in wanted]
