"""Who is measured with what, in which order. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.candidates import Candidate
from benchmarks.errors import BenchmarkError
from benchmarks.metrics import Metric
from benchmarks.policies import BenchPolicy


@dataclass(frozen=True, slots=True)
class Turn:
    """One start of a candidate: a round, the policy that it runs, and what is then measured.

    ``label`` is what its samples are called where one candidate has several parts to play.
    """

    round: int
    candidate: Candidate
    policy: BenchPolicy
    metrics: tuple[Metric, ...]
    label: str = ""

    @property
    def name(self) -> str:
        """What its samples are called."""
        return self.label or self.candidate.name


def applicable(candidate: Candidate, metric: Metric) -> bool:
    """Whether the candidate can do what the metric needs."""
    return metric.needs <= candidate.abilities


def turns(candidates: Sequence[Candidate], metrics: Sequence[Metric], rounds: int) -> Iterator[Turn]:
    """Interleaved: every candidate once for a policy, then the next policy, and all again in the next round.

    So a machine that slows down or speeds up during the run does it to everybody.
    """
    for number in range(1, rounds + 1):
        for policy, group in groupby(metrics, key=lambda metric: metric.policy):
            together = tuple(group)
            for candidate in candidates:
                mine = tuple(metric for metric in together if applicable(candidate, metric))
                if mine:
                    yield Turn(number, candidate, policy, mine)


def choose_candidates(known: Mapping[str, Candidate], wanted: Sequence[str]) -> list[Candidate]:
    """The named candidates in their usual order, all when none is named. Raises :class:`BenchmarkError`."""
    if unknown := [name for name in wanted if name not in known]:
        raise BenchmarkError(f"There is no candidate {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [candidate for name, candidate in known.items() if not wanted or name in wanted]


def choose_metrics(known: Mapping[str, Metric], wanted: Sequence[str]) -> list[Metric]:
    """The metrics named by name or group in their usual order, all when none is named. Raises BenchmarkError."""
    groups = dict.fromkeys(metric.group for metric in known.values())
    if unknown := [name for name in wanted if name not in known and name not in groups]:
        raise BenchmarkError(
            f"There is no metric {', '.join(unknown)}. Groups: {', '.join(groups)}. Metrics: {', '.join(known)}."
        )
    return [m for m in known.values() if not wanted or m.name in wanted or m.group in wanted]
