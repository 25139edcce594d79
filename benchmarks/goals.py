"""What Podlane sets out to reach beside its peers, whether a run did, and what counts as a collapse. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.analysis import Analysis

RELAY, ASIDE, EBPF = "podlane-relay", "podlane-step-aside", "podlane-ebpf"
ENVOY, HAPROXY, HTB = "envoy-tcp", "haproxy", "direct-htb"
SPLICING: Final = "haproxy-splice"
"""HAProxy in the configuration that is its best for bulk."""
_NOTHING: Final = 0.01
"""What "about zero" means: seconds of CPU per GiB."""
_NO_MEMORY: Final = 0.1
"""The same in MiB per 1,000 connections."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of a candidate, as a ratio to a ``peer``'s or by itself (None): at least, or at most, ``limit``."""

    title: str
    candidate: str
    metric: str
    figure: str
    peer: str | None
    limit: float
    at_least: bool

    def value(self, analysis: Analysis) -> float | None:
        """What the run has; None when one of the two was not measured."""
        if self.peer is None:
            return analysis.median(self.metric, self.figure, self.candidate)
        return analysis.ratio(self.metric, self.figure, self.candidate, self.peer)

    def met(self, analysis: Analysis) -> bool | None:
        """Whether the goal is reached; None when it was not measured."""
        value = self.value(analysis)
        if value is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def wanted(self) -> str:
        """The goal in a few characters."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


def _goals() -> Iterator[Goal]:
    for candidate, conn, keep in ((RELAY, (1.8, 0.8), (1.0, 1.0)), (ASIDE, (2.3, 1.0), (1.4, 1.4))):
        for peer, limit in zip((ENVOY, HAPROXY), conn, strict=True):
            yield Goal("connections/s", candidate, "conn", "per_s", peer, limit, True)
        for peer, limit in zip((ENVOY, HAPROXY), keep, strict=True):
            yield Goal("keep-alive requests/s", candidate, "keepalive-50", "per_s", peer, limit, True)
    yield Goal("bulk, 1 stream", RELAY, "bulk-up-1", "gbit_s", ENVOY, 1.0, True)
    yield Goal("bulk, 1 stream", RELAY, "bulk-up-1", "gbit_s", SPLICING, 1.1, True)
    yield Goal("bulk, 1 stream", ASIDE, "bulk-up-1", "gbit_s", HTB, 0.9, True)
    yield Goal("CPU per GiB", RELAY, "bulk-up-1", "cpu_per_gib", ENVOY, 0.6, False)
    yield Goal("CPU per GiB, seconds", ASIDE, "bulk-up-1", "cpu_per_gib", None, _NOTHING, False)
    yield Goal("CPU per 1,000 connections", RELAY, "conn", "cpu_per_1000", ENVOY, 0.55, False)
    yield Goal("CPU per 1,000 connections", ASIDE, "conn", "cpu_per_1000", ENVOY, 0.12, False)
    yield Goal("MiB per 1,000 idle connections", RELAY, "memory", "mib_per_1000", None, 1.0, False)
    yield Goal("MiB per 1,000 idle connections", ASIDE, "memory", "mib_per_1000", None, _NO_MEMORY, False)
    yield Goal("p99 of new connections", RELAY, "conn", "p99_us", HAPROXY, 1.5, False)
    yield Goal("p99 of new connections", ASIDE, "conn", "p99_us", HAPROXY, 1.2, False)
    for title, metric, peer, limit in (
        ("connections/s", "conn", HTB, 0.97),
        ("connections/s", "conn", ENVOY, 2.6),
        ("connections/s", "conn", SPLICING, 1.35),
        ("TLS connections/s", "conn-tls", HTB, 0.97),
        ("keep-alive requests/s", "keepalive-50", HTB, 0.98),
    ):
        yield Goal(title, EBPF, metric, "per_s", peer, limit, True)
    yield Goal("bulk, 1 stream", EBPF, "bulk-up-1", "gbit_s", HTB, 0.97, True)
    yield Goal("CPU per 1,000 connections, seconds", EBPF, "conn", "cpu_per_1000", None, _NOTHING, False)
    yield Goal("p99 of new connections", EBPF, "conn", "p99_us", HTB, 1.3, False)


GOALS: Final = tuple(_goals())

GUARDS: Final = tuple(
    Goal(title, candidate, metric, figure, HAPROXY, 0.25, True)
    for candidate in (RELAY, ASIDE)
    for title, metric, figure in (
        ("connections/s", "conn", "per_s"),
        ("keep-alive requests/s", "keepalive-50", "per_s"),
        ("bulk, 1 stream", "bulk-up-1", "gbit_s"),
    )
)
"""Far below every goal: only a mistake gets there."""


def collapses(analysis: Analysis) -> list[str]:
    """What is so bad that it must be a mistake, in words. Nothing: all is well.

    A busy machine takes a round away from anybody, so Podlane's best round is compared with the peer's median.
    """
    found = []
    for guard in GUARDS:
        best = analysis.spread(guard.metric, guard.figure, guard.candidate)
        peer = analysis.median(guard.metric, guard.figure, HAPROXY)
        if best is not None and peer and best.high / peer < guard.limit:
            ratio = best.high / peer
            found.append(f"{guard.candidate}: {guard.title} are {ratio:.2f} of {HAPROXY}'s, below {guard.limit:g}.")
    ours = (RELAY, ASIDE)
    if not any(analysis.measured_of(HAPROXY, guard.metric) for guard in GUARDS):
        found.append(f"There is nothing to compare with: no figure of {HAPROXY}. See what is missing in the report.")
    found += [f"{who}: {what} gave no figure: {why}" for who, what, why in analysis.failures() if who in ours]
    found += [f"{who}: {count} errors in {what}." for (who, what), count in analysis.errors().items() if who in ours]
    return found
