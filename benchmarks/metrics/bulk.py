"""Bulk transfer by iperf3: what arrives per second, and what a GiB costs."""

from __future__ import annotations

from benchmarks import tools
from benchmarks.candidates.base import Ability
from benchmarks.errors import MeasurementError
from benchmarks.metrics.base import BUSY_PER_GIB, CPU_PER_GIB, GIB, WIDE, Bench, Better, Figure, Metric, Outcome
from benchmarks.policies import BenchPolicy


def _measure(bench: Bench, *, streams: int, down: bool) -> Outcome:
    argv = tools.iperf3(bench.stage.address, streams=streams, seconds=bench.seconds, down=down)
    meter = bench.meter()
    said = bench.stage.run_client(argv, seconds=bench.seconds)
    cost = meter.stop()
    bulk = tools.read_iperf3(said)
    if not bulk.received:
        raise MeasurementError("iperf3: nothing arrived")
    gib = bulk.received / GIB
    return Outcome({"gbit_s": bulk.gbit_s, "cpu_per_gib": cost.cpu / gib, "busy_per_gib": cost.busy / gib})


def bulk(streams: int, *, down: bool, group: str = "bulk", prefix: str = "", policy: BenchPolicy = WIDE) -> Metric:
    """Bulk transfer of so many streams, to the client (``down``) or from it."""
    way = "down" if down else "up"
    title = f"bulk {way}, {streams} stream{'s' if streams > 1 else ''}"
    return Metric(
        f"{prefix}bulk-{way}-{streams}",
        group,
        title,
        lambda bench: _measure(bench, streams=streams, down=down),
        {
            "gbit_s": Figure(title, "Gbit/s", Better.MORE),
            "cpu_per_gib": CPU_PER_GIB,
            "busy_per_gib": BUSY_PER_GIB,
        },
        needs=frozenset({Ability.TCP}),
        policy=policy,
    )


METRICS = tuple(bulk(streams, down=down) for down in (False, True) for streams in (1, 8))
