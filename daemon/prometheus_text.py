"""Metrics as data, and in Prometheus' text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. The library prometheus_client is not used, as it imports
an HTTP server and client, wsgiref and mail parsers, which every sidecar would keep in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Protocol

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """All samples of one metric: a counter, gauge or histogram. ``labels`` are the label names."""

    kind: str
    name: str
    text: str
    labels: tuple[str, ...] = ()
    samples: list[str] = field(default_factory=list)
    """Lines of the text format."""

    def add(self, number: float, *values: str) -> None:
        """Add a sample, with a value for each label."""
        self.samples.append(_sample(self.name, list(zip(self.labels, values, strict=True)), number))

    def add_counts(self, bounds: Iterable[float], counts: Sequence[int], total: float, *values: str) -> None:
        """Add a histogram's counts per bucket (the last one above all bounds) and its sum."""
        labels = list(zip(self.labels, values, strict=True))
        reached = list(accumulate(counts))
        for bound, number in zip((*(str(float(each)) for each in bounds), "+Inf"), reached, strict=True):
            self.samples.append(_sample(f"{self.name}_bucket", [*labels, ("le", bound)], number))
        self.samples.append(_sample(f"{self.name}_count", labels, reached[-1]))
        self.samples.append(_sample(f"{self.name}_sum", labels, total))


def counter(name: str, text: str, *labels: str) -> MetricFamily:
    """A counter without samples; ``name`` without ``_total``."""
    return MetricFamily("counter", f"{name}_total", text, labels)


def gauge(name: str, text: str, *labels: str) -> MetricFamily:
    """A gauge without samples."""
    return MetricFamily("gauge", name, text, labels)


def histogram(name: str, text: str, *labels: str) -> MetricFamily:
    """A histogram without samples, which :meth:`MetricFamily.add_counts` adds."""
    return MetricFamily("histogram", name, text, labels)


class ObservedHistogram:
    """Counts numbers by the buckets of these bounds. For one thread at a time."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, number: float) -> None:
        """Count it."""
        self.counts[bisect_left(self.bounds, number)] += 1
        self.total += number

    def add_to(self, family: MetricFamily, *labels: str) -> None:
        """Add what was counted, with a value for each label."""
        family.add_counts(self.bounds, self.counts, self.total, *labels)


class Collector(Protocol):
    """An object that provides metrics."""

    def collect(self) -> Iterator[MetricFamily]:
        """The current metrics."""
        ...


def render(families: Iterable[MetricFamily]) -> bytes:
    lines = []
    for family in families:
        text = family.text.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {family.name} {text}\n", f"# TYPE {family.name} {family.kind}\n", *family.samples]
    return "".join(lines).encode()


def _sample(name: str, labels: Sequence[tuple[str, str]], number: float) -> str:
    said = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
    return f"{name}{{{said}}} {float(number)}\n" if said else f"{name} {float(number)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
