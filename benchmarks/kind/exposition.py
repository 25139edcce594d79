"""What the kubelet and the API server tell in Prometheus' text format: a container's usage, and histograms. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/. A cluster's metrics are megabytes of text, so that only
the lines which are asked for are read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks.errors import MeasurementError

_MIB: Final = 1 << 20
_CPU: Final = "container_cpu_usage_seconds_total"
_WORKING_SET: Final = "container_memory_working_set_bytes"
_RESIDENT: Final = "container_memory_rss"


def read(text: str, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
    """The samples of a metric (as it is written, with _bucket and the like) that have these labels."""
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    for family in text_string_to_metric_families(lines):
        yield from (sample for sample in family.samples if labels.items() <= sample.labels.items())


@dataclass(frozen=True, slots=True)
class Usage:
    """A container as the kubelet saw it at ``taken`` (seconds of its clock): CPU seconds since it began, and MiB."""

    taken: float
    cpu: float
    working_set: float
    resident: float


def usage(text: str, namespace: str, pod: str, container: str) -> Usage | None:
    """A container's usage in what a kubelet tells at /metrics/cadvisor; None when it has not looked at it yet."""
    labels = {"namespace": namespace, "pod": pod, "container": container}
    found = {name: list(read(text, name, labels)) for name in (_CPU, _WORKING_SET, _RESIDENT)}
    if not all(found.values()):
        return None
    # A container that was restarted is there twice for a while.
    cpu, working_set, resident = (max(each, key=lambda s: float(s.timestamp or 0)) for each in found.values())
    return Usage(float(cpu.timestamp or 0), cpu.value, working_set.value / _MIB, resident.value / _MIB)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound, ascending, infinity last; ``total`` is the sum of what was seen."""

    buckets: tuple[tuple[float, float], ...]
    total: float

    @classmethod
    def read(cls, text: str, name: str, labels: Mapping[str, str]) -> Self:
        """All series of a histogram that have these labels, added up; empty when there is none."""
        counts: dict[float, float] = defaultdict(float)
        for sample in read(text, f"{name}_bucket", labels):
            counts[float(sample.labels["le"])] += sample.value
        return cls(tuple(sorted(counts.items())), sum(s.value for s in read(text, f"{name}_sum", labels)))

    @property
    def count(self) -> float:
        return self.buckets[-1][1] if self.buckets else 0.0

    @property
    def mean(self) -> float:
        """Raises :class:`MeasurementError` when nothing was counted."""
        if not self.count:
            raise MeasurementError("the histogram has counted nothing")
        return self.total / self.count

    def since(self, before: Histogram) -> Histogram:
        """What was counted after ``before`` was read. Raises :class:`MeasurementError` when counts went back.

        They do when another server answers, or one that was started anew.
        """
        earlier = dict(before.buckets)
        buckets = tuple((bound, count - earlier.get(bound, 0.0)) for bound, count in self.buckets)
        if any(count < 0 for _, count in buckets):
            raise MeasurementError("counts went back: another API server answered, or it was started anew")
        return Histogram(buckets, self.total - before.total)

    def quantile(self, share: float) -> float:
        """Interpolated within its bucket, as Prometheus' histogram_quantile() does; the last finite bound beyond that.

        Raises :class:`MeasurementError` when nothing was counted.
        """
        if not self.count:
            raise MeasurementError("the histogram has counted nothing")
        rank = share * self.count
        lower = below = 0.0
        for bound, count in self.buckets:
            if count >= rank and count > below:
                return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower
