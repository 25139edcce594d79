"""From samples to medians and ratios. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.results import Results, Sample


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


class Analysis:
    """Every figure of a run, by metric, figure and candidate."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._spreads = _spreads(results.samples)

    def spread(self, metric: str, figure: str, candidate: str) -> Spread | None:
        """The figure over the rounds; None when it was not measured."""
        return self._spreads.get((metric, figure, candidate))

    def median(self, metric: str, figure: str, candidate: str) -> float | None:
        """The median over the rounds; None when it was not measured."""
        spread = self.spread(metric, figure, candidate)
        return None if spread is None else spread.median

    def ratio(self, metric: str, figure: str, candidate: str, peer: str) -> float | None:
        """Median of the candidate over median of the peer; None when one is missing or the peer's is zero."""
        mine, theirs = self.median(metric, figure, candidate), self.median(metric, figure, peer)
        return mine / theirs if mine is not None and theirs else None

    def candidates(self) -> list[str]:
        """The candidates that were run, in their order."""
        return [name for name, info in self.results.candidates.items() if info.missing is None]

    def measured(self, metric: str) -> bool:
        """Whether there is any figure of the metric."""
        return any(name == metric for name, _, _ in self._spreads)

    def measured_of(self, candidate: str, metric: str) -> bool:
        """Whether a candidate has any figure of the metric."""
        return any((name, who) == (metric, candidate) for name, _, who in self._spreads)

    def failures(self) -> Iterator[tuple[str, str, str]]:
        """(candidate, metric, why) of every measurement that gave nothing, each reason once."""
        yield from dict.fromkeys((s.candidate, s.metric, s.failure) for s in self.results.samples if s.failure)

    def errors(self) -> dict[tuple[str, str], int]:
        """Failed connections and requests by candidate and metric, where there were any."""
        total: dict[tuple[str, str], int] = defaultdict(int)
        for sample in self.results.samples:
            if sample.errors and not sample.failure:
                total[sample.candidate, sample.metric] += sample.errors
        return dict(total)


def _spreads(samples: Iterable[Sample]) -> Mapping[tuple[str, str, str], Spread]:
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in samples:
        for figure, value in sample.values.items():
            values[sample.metric, figure, sample.candidate].append(value)
    return {key: Spread(tuple(found)) for key, found in values.items()}
