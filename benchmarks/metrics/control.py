"""What is not on the way of a byte: reconciling classes, and detecting protocols, measured by themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from benchmarks.candidates.base import Ability
from benchmarks.metrics.base import Bench, Better, Figure, Metric, Outcome
from benchmarks.policies import BenchPolicy, wide
from benchmarks.stage import INTERFACE
from tc_core.apply import execute
from tc_core.compile.mark_tree import compile_policy
from tc_core.rtnetlink.kernel import NetlinkKernel

CLASSES: Final = (1, 10, 100, 200)


def _milliseconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return (time.perf_counter() - began) * 1e3


def _reconcile(bench: Bench, policy: BenchPolicy) -> Outcome:
    """Everything from nothing; again, which changes nothing; one class's ceiling changed; all away."""
    last = replace(policy.classes[-1], ceil="1Gbit")
    changed = replace(policy, classes=(*policy.classes[:-1], last))
    stage = bench.stage
    found = stage.features()
    with stage.pod.namespace.entered(), NetlinkKernel() as kernel:

        def apply(wanted: BenchPolicy) -> execute.Report:
            return execute.apply(kernel, INTERFACE, compile_policy(wanted.policy(), found, wanted.ids))

        try:
            values = {
                "create_ms": _milliseconds(lambda: apply(policy)),
                "again_ms": _milliseconds(lambda: apply(policy)),
                "change_ms": _milliseconds(lambda: apply(changed)),
            }
        finally:
            removed = _milliseconds(lambda: execute.clear(kernel, INTERFACE))
    return Outcome({**values, "remove_ms": removed})


def _detection(bench: Bench) -> Outcome:
    said = bench.stage.run_client(bench.stage.worker("detection"), seconds=10)
    return Outcome(json.loads(said))


def _reconcile_metric(classes: int) -> Metric:
    policy = wide(classes)
    plural = f"{classes} class{'es' if classes > 1 else ''}"
    return Metric(
        f"reconcile-{classes}",
        "reconcile",
        f"reconcile, {plural}",
        lambda bench: _reconcile(bench, policy),
        {
            "create_ms": Figure(f"{plural}: from nothing", "ms", Better.LESS),
            "again_ms": Figure(f"{plural}: nothing to do", "ms", Better.LESS),
            "change_ms": Figure(f"{plural}: one changed", "ms", Better.LESS),
            "remove_ms": Figure(f"{plural}: removed", "ms", Better.LESS),
        },
        frozenset({Ability.LIBRARY}),
    )


METRICS: Final = (
    *map(_reconcile_metric, CLASSES),
    Metric(
        "detection",
        "detection",
        "detection of a connection's first bytes",
        _detection,
        {
            "client_hello_us": Figure("a ClientHello (OpenSSL's)", "µs", Better.LESS),
            "http1_us": Figure("an HTTP/1 head (curl's)", "µs", Better.LESS),
            "http2_us": Figure("an HTTP/2 opening", "µs", Better.LESS),
            "opaque_us": Figure("anything else", "µs", Better.LESS),
        },
        frozenset({Ability.LIBRARY}),
    ),
)
