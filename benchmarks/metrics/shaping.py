"""How exactly a class gets its rate, and how long a small request takes inside a saturated class and beside it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.candidates.base import Ability
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.metrics.base import Bench, Better, Figure, Metric, Outcome
from benchmarks.policies import BenchClass, shaped
from benchmarks.processes import wait_until
from benchmarks.stage import PAGE, Stage
from benchmarks.workers.counts import so_far

ACCURACY_RATES: Final = (10, 100, 500)
LATENCY_RATES: Final = (10, 50, 200)
"""Mbit/s."""
PAYLOAD_SHARE: Final = 1448 / 1514
"""Of each 1,514 bytes that HTB counts (Ethernet 14, IPv4 20, TCP 20, timestamps 12) 1,448 are payload."""
_SATURATING_STREAMS: Final = 4
_SETTLED_AFTER: Final = 1.0
"""Seconds at the class's rate that must have arrived before anything counts: slow start and the first burst pass."""


@contextmanager
def _arrived(stage: Stage, port: int) -> Iterator[socket.socket]:
    """A connection to the server's sink, from beside it, that asks how much has come."""
    with stage.server.namespace.entered():
        connection = socket.create_connection(("127.0.0.1", port), 10)
    with connection:
        yield connection


def _bytes_so_far(counter: socket.socket) -> int:
    try:
        return so_far(counter)
    except EOFError:
        raise MeasurementError("the server's sink has ended") from None


@contextmanager
def _saturated(bench: Bench, lane: BenchClass, mbit: int, streams: int) -> Iterator[socket.socket]:
    """Uploads in a class that never end, once they have settled; gives the connection that counts."""
    stage = bench.stage
    argv = stage.worker("sender", stage.address, str(lane.port), lane.host, str(streams))
    with _arrived(stage, lane.port) as counter:
        before = _bytes_so_far(counter)
        process = stage.asking.popen(stage.client(argv), stdout=subprocess.PIPE, process_group=0)
        try:
            settled = before + mbit * 1e6 / 8 * _SETTLED_AFTER * PAYLOAD_SHARE
            try:
                wait_until("a saturated class", process.pid, lambda: _bytes_so_far(counter) >= settled, patience=30)
            except BenchmarkError as error:
                raise MeasurementError(f"the upload at {mbit} Mbit/s: {error}") from None
            yield counter
        finally:
            process.kill()
            process.communicate()


def _accuracy(bench: Bench, mbit: int) -> Outcome:
    with _saturated(bench, bench.policy.of("inside"), mbit, 1) as counter:
        meter = bench.meter()
        before = _bytes_so_far(counter)
        threading.Event().wait(bench.seconds)  # the window that is measured
        after = _bytes_so_far(counter)
        cost = meter.stop()
    goodput = (after - before) * 8 / cost.wall / 1e6
    return Outcome({"mbit_s": goodput, "share": goodput / (mbit * PAYLOAD_SHARE)})


def _probe(bench: Bench, lane: BenchClass) -> tuple[dict[str, float], int]:
    stage = bench.stage
    seconds = bench.seconds
    argv = stage.worker("probe", stage.address, str(lane.http_port), lane.host, PAGE, str(seconds))
    report = json.loads(stage.run_client(argv, seconds=seconds))
    if not report["count"]:
        raise MeasurementError(f"no request in class {lane.name} was answered")
    return report, int(report["errors"])


def _latency(bench: Bench, mbit: int) -> Outcome:
    inside, beside = bench.policy.of("inside"), bench.policy.of("beside")
    with _saturated(bench, inside, mbit, _SATURATING_STREAMS):
        within, errors = _probe(bench, inside)
        aside, more = _probe(bench, beside)
    values = {
        "inside_p50_ms": within["p50"] / 1e3,
        "inside_p99_ms": within["p99"] / 1e3,
        "beside_p50_ms": aside["p50"] / 1e3,
        "beside_p99_ms": aside["p99"] / 1e3,
    }
    return Outcome(values, errors + more)


def _accuracy_metric(mbit: int) -> Metric:
    return Metric(
        f"accuracy-{mbit}",
        "accuracy",
        f"a class of {mbit} Mbit/s",
        lambda bench: _accuracy(bench, mbit),
        {
            "share": Figure(f"{mbit} Mbit/s: measured / computed", "", Better.MORE),
            "mbit_s": Figure(f"{mbit} Mbit/s: goodput", "Mbit/s", Better.MORE),
        },
        frozenset({Ability.LANES}),
        shaped(mbit),
    )


def _latency_metric(mbit: int) -> Metric:
    where = f"class of {mbit} Mbit/s saturated"
    return Metric(
        f"under-load-{mbit}",
        "under-load",
        f"small requests, {where}",
        lambda bench: _latency(bench, mbit),
        {
            "inside_p50_ms": Figure(f"{where}: inside, p50", "ms", Better.LESS),
            "inside_p99_ms": Figure(f"{where}: inside, p99", "ms", Better.LESS),
            "beside_p50_ms": Figure(f"{where}: beside, p50", "ms", Better.LESS),
            "beside_p99_ms": Figure(f"{where}: beside, p99", "ms", Better.LESS),
        },
        frozenset({Ability.LANES}),
        shaped(mbit),
    )


METRICS: Final = (*map(_accuracy_metric, ACCURACY_RATES), *map(_latency_metric, LATENCY_RATES))
