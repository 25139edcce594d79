"""All metrics by name, in the order in which they are measured and listed."""

from __future__ import annotations

from typing import Final

from benchmarks.metrics import bulk, control, growth, memory, requests, shaping
from benchmarks.metrics.base import Bench, Better, Figure, Metric, Outcome

__all__ = ["METRICS", "Bench", "Better", "Figure", "Metric", "Outcome"]

METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        *bulk.METRICS,
        *requests.METRICS,
        *memory.METRICS,
        *shaping.METRICS,
        *control.METRICS,
        *growth.METRICS,
    )
}
