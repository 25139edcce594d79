"""New connections and kept-alive requests by wrk, HTTP/2 by h2load: how many, how fast, and what a thousand cost."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import tools
from benchmarks.candidates.base import Ability
from benchmarks.errors import MeasurementError
from benchmarks.metrics.base import (
    BUSY_PER_1000,
    CPU_PER_1000_CONNECTIONS,
    WIDE,
    Bench,
    Better,
    Figure,
    Metric,
    Outcome,
)
from benchmarks.policies import BenchPolicy
from benchmarks.processes import pin
from benchmarks.stage import HTTP2_PORT, PAGE

FULL_RATE_CONNECTIONS = 50
_CONNECTED_PER_SECOND = 1000
"""More connections get more time: they must all be there, and answered, for most of the measurement."""
_CLOSE = ("Connection: close",)
_STREAMS = 10
"""Concurrent requests per HTTP/2 connection."""


def _outcome(requests: tools.Requests, cpu: float, busy: float) -> Outcome:
    if not requests.count:
        raise MeasurementError(f"not one request was answered ({requests.errors} errors)")
    thousands = requests.count / 1000
    values = {"per_s": requests.per_second, "cpu_per_1000": cpu / thousands, "busy_per_1000": busy / thousands}
    values |= {k: v for k, v in (("p50_us", requests.p50), ("p99_us", requests.p99)) if v is not None}
    return Outcome(values, requests.errors)


def _wrk(bench: Bench, scheme: str, connections: int, headers: tuple[str, ...] = (), cpu: int | None = None) -> Outcome:
    url = f"{scheme}://{bench.policy.target.host}{PAGE}"
    seconds = bench.seconds + connections // _CONNECTED_PER_SECOND
    argv = tools.wrk(url, connections=connections, seconds=seconds, headers=headers)
    meter = bench.meter()
    said = bench.stage.run_client(argv, seconds=seconds, cpu=cpu)
    cost = meter.stop()
    return _outcome(tools.read_wrk(said), cost.cpu, cost.busy)


def _h2load(bench: Bench, connections: int) -> Outcome:
    url = f"http://{bench.policy.target.host}:{HTTP2_PORT}{PAGE}"
    argv = tools.h2load(url, connections=connections, streams=_STREAMS, seconds=bench.seconds)
    meter = bench.meter()
    said = bench.stage.run_client(argv, seconds=bench.seconds)
    cost = meter.stop()
    return _outcome(tools.read_h2load(said, seconds=bench.seconds), cost.cpu, cost.busy)


def _on_one_cpu(bench: Bench) -> Outcome:
    """One connection with everybody on one CPU: the length of the way, without wake-ups of another CPU."""
    pin(bench.running.pids(), bench.stage.placement.others)
    try:
        return _wrk(bench, "http", 1)
    finally:
        pin(bench.running.pids(), bench.stage.placement.proxy)


def _metric(
    name: str,
    group: str,
    title: str,
    unit: str,
    measure: Callable[[Bench], Outcome],
    need: Ability,
    *,
    policy: BenchPolicy = WIDE,
    classes: bool = False,
) -> Metric:
    figures = {
        "per_s": Figure(title, unit, Better.MORE),
        "p50_us": Figure(f"{title}, p50", "µs", Better.LESS),
        "p99_us": Figure(f"{title}, p99", "µs", Better.LESS),
        "cpu_per_1000": CPU_PER_1000_CONNECTIONS
        if unit == "connections/s"
        else Figure("CPU per 1,000 requests", "s", Better.LESS, partial=True),
        "busy_per_1000": BUSY_PER_1000,
    }
    needs = {need, Ability.MANY_CLASSES} if classes else {need}
    return Metric(name, group, title, measure, figures, frozenset(needs), policy)


def keep_alive(
    connections: int, group: str = "keepalive", policy: BenchPolicy = WIDE, suffix: str = "", name: str = ""
) -> Metric:
    """Kept-alive HTTP/1 requests over so many connections."""
    title = f"keep-alive requests, {connections:,} connection{'s' if connections > 1 else ''}{suffix}"
    name = name or (f"{group}-{connections}" if not suffix else f"{group}-keepalive-{len(policy.classes)}")
    return _metric(
        name,
        group,
        title,
        "requests/s",
        lambda bench: _wrk(bench, "http", connections),
        Ability.HTTP1,
        policy=policy,
        classes=bool(suffix),
    )


def new_connections(
    policy: BenchPolicy = WIDE, group: str = "connections", suffix: str = "", name: str = "conn"
) -> Metric:
    """A connection per request, at full rate."""
    return _metric(
        name if not suffix else f"{group}-conn-{len(policy.classes)}",
        group,
        f"new connections{suffix}",
        "connections/s",
        lambda bench: _wrk(bench, "http", FULL_RATE_CONNECTIONS, _CLOSE),
        Ability.HTTP1,
        policy=policy,
        classes=bool(suffix),
    )


METRICS = (
    new_connections(),
    _metric(
        "conn-tls",
        "connections",
        "new TLS connections",
        "connections/s",
        lambda bench: _wrk(bench, "https", FULL_RATE_CONNECTIONS, _CLOSE),
        Ability.TLS,
    ),
    keep_alive(1),
    keep_alive(50),
    _metric("latency", "latency", "small requests, one CPU", "requests/s", _on_one_cpu, Ability.HTTP1),
    _metric("http2", "http2", "HTTP/2 requests, 10 connections", "requests/s", lambda b: _h2load(b, 10), Ability.HTTP2),
)
