"""How figures grow with the number of connections and of classes: the same measurements, again and again."""

from __future__ import annotations

from typing import Final

from benchmarks.metrics.base import Metric
from benchmarks.metrics.control import CLASSES
from benchmarks.metrics.requests import keep_alive, new_connections
from benchmarks.policies import wide

CONNECTIONS: Final = (1, 10, 100, 1000, 5000)
_MANY: Final = 50
"""Connections at once while classes grow."""


def _with_classes(classes: int) -> tuple[Metric, ...]:
    policy = wide(classes)
    suffix = f", {classes} class{'es' if classes > 1 else ''}"
    return (
        new_connections(policy, "growth-classes", suffix),
        keep_alive(_MANY, "growth-classes", policy, suffix),
    )


METRICS: Final = (
    *(keep_alive(connections, "growth-connections") for connections in CONNECTIONS),
    *(metric for classes in CLASSES for metric in _with_classes(classes)),
)
