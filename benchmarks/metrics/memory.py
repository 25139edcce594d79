"""Memory of a candidate without connections and with many idle ones, and what idle connections cost it in CPU time."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import replace
from typing import Final

from benchmarks.candidates.base import Ability
from benchmarks.errors import MeasurementError
from benchmarks.metrics.base import WIDE, Bench, Better, Figure, Metric, Outcome
from benchmarks.processes import resident_mib
from benchmarks.stage import HTTP_PORT, PAGE

IDLE_CONNECTIONS: Final = 5000
_FRESH: Final = replace(WIDE, name="fresh")
"""A policy of its own, so that every candidate is started anew: what it has grown to before must not count."""


def _measure(bench: Bench, connections: int) -> Outcome:
    stage = bench.stage
    empty = resident_mib(bench.running.pids())
    host = bench.policy.target.host
    argv = stage.worker("idle", stage.address, str(HTTP_PORT), host, PAGE, str(connections))
    process = stage.asking.popen(stage.client(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise MeasurementError(f"the client of idle connections ended with {process.wait()}")
        report = json.loads(line)
        if not report["open"]:
            raise MeasurementError("not one connection could be opened")
        meter = bench.meter()
        threading.Event().wait(bench.seconds)  # the measurement itself: nothing happens meanwhile
        cost = meter.stop()
        full = resident_mib(bench.running.pids())
    finally:
        process.communicate()
    thousands = report["open"] / 1000
    values = {
        "mib_at_0": empty,
        "mib_idle": full,
        "mib_per_1000": (full - empty) / thousands,
        "idle_cpu_share": cost.cpu / cost.wall,
    }
    return Outcome(values, report["failed"])


METRICS: Final = (
    Metric(
        "memory",
        "memory",
        f"memory with {IDLE_CONNECTIONS:,} idle connections",
        lambda bench: _measure(bench, IDLE_CONNECTIONS),
        {
            "mib_at_0": Figure("memory without connections", "MiB", Better.LESS),
            "mib_idle": Figure(f"memory with {IDLE_CONNECTIONS:,} idle connections", "MiB", Better.LESS),
            "mib_per_1000": Figure("memory per 1,000 idle connections", "MiB", Better.LESS),
            "idle_cpu_share": Figure("CPU while they idle", "CPUs", Better.LESS),
        },
        frozenset({Ability.PROXY, Ability.HTTP1}),
        _FRESH,
    ),
)
