"""The features, each with what it is compared to and what is measured. A new one is an entry here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.errors import BenchmarkError
from benchmarks.features.variants import (
    HaProxyInbound,
    Variant,
    by_port,
    by_port_with_limits,
    limits_classes,
    limits_total,
)
from benchmarks.metrics import METRICS, Figure, Metric
from benchmarks.metrics.base import WIDE
from benchmarks.metrics.bulk import bulk
from benchmarks.metrics.requests import keep_alive, new_connections
from benchmarks.plan import Turn, turns

OFF: Final = "off"
_LEFT_OUT: Final = frozenset({"p50_us", "p99_us", "mib_idle"})
_CPU: Final = frozenset({"cpu_per_1000", "cpu_per_gib"})
_BUSY: Final = frozenset({"busy_per_1000", "busy_per_gib"})
_INBOUND: Final = replace(WIDE, name="inbound", inbound=True)
_INBOUND_METRICS: Final = (
    new_connections(_INBOUND, "inbound", name="inbound-conn"),
    keep_alive(50, "inbound", _INBOUND, name="inbound-keepalive-50"),
    bulk(1, down=True, group="inbound", prefix="inbound-", policy=_INBOUND),
)


@dataclass(frozen=True)
class Feature:
    """A feature: ``off`` is what it is compared to; ``on`` are the ways to have it, by their labels.

    ``in_kernel``: much of its work is the kernel's, so that what it costs the whole machine is shown, instead of the
    CPU time of Podlane's processes.
    """

    name: str
    title: str
    off: Candidate
    on: Mapping[str, Candidate]
    metrics: tuple[Metric, ...]
    in_kernel: bool = False

    def figures(self, metric: Metric) -> dict[str, Figure]:
        """What is shown of a metric; all that was measured is in the JSON document."""
        hidden = _CPU if self.in_kernel else _BUSY
        return {key: figure for key, figure in metric.figures.items() if key not in _LEFT_OUT | hidden}

    @property
    def sides(self) -> dict[str, Candidate]:
        """All that is measured, by label, in order."""
        return {OFF: self.off, **self.on}

    def label(self, side: str) -> str:
        """What samples of a side are called."""
        return f"{self.name}/{side}"


def _of(*names: str) -> tuple[Metric, ...]:
    return tuple(METRICS[name] for name in names)


_RELAY: Final = CANDIDATES["podlane-relay"]
_ONE, _TWO = (
    Variant(f"workers-{n}", f"{n} worker{'s'[: n - 1]}", "--workers", str(n), everywhere=True) for n in (1, 2)
)

FEATURES: Final[Mapping[str, Feature]] = {
    feature.name: feature
    for feature in (
        Feature(
            "inbound",
            "answers to clients in classes by name (off: HTB without a proxy)",
            CANDIDATES["direct-htb"],
            {"relay": _RELAY, "step aside": CANDIDATES["podlane-step-aside"], "HAProxy": HaProxyInbound()},
            _INBOUND_METRICS,
            in_kernel=True,
        ),
        Feature(
            "downloads",
            "limits for what arrives, through the relay",
            _RELAY,
            {
                "total": Variant("ingress-total", "a total: the ifb", change=limits_total),
                "classes": Variant(
                    "ingress-classes", "classes by name: the ifb and the look-up", change=limits_classes
                ),
            },
            _of("bulk-down-1", "bulk-down-8", "bulk-up-1"),
            in_kernel=True,
        ),
        Feature(
            "downloads-by-port",
            "limits for what arrives, in the kernel alone",
            Variant("by-port", "classes by port", change=by_port),
            {"classes": Variant("ingress-by-port", "classes by port, of what arrives too", change=by_port_with_limits)},
            _of("bulk-down-1", "bulk-down-8"),
            in_kernel=True,
        ),
        Feature(
            "requests",
            "`requests: follow`",
            _RELAY,
            {"follow": CANDIDATES["podlane-follow"]},
            _of("conn", "keepalive-1", "keepalive-50"),
        ),
        Feature(
            "access-log",
            "`--access-log connections`, to a file",
            _RELAY,
            {
                "connections": Variant(
                    "access-log", "with it", "--access-log", "connections", "--access-log-file", "{folder}/access.log"
                )
            },
            _of("conn", "conn-tls"),
        ),
        Feature(
            "watch",
            "watching the policy's file (on by default)",
            Variant("no-watch", "--no-watch", "--no-watch"),
            {"watch": Variant("watch", "--watch", "--watch")},
            _of("conn", "keepalive-50", "memory"),
        ),
        Feature(
            "workers",
            "`--workers 2` (off: 1), all on the same CPUs as client and server",
            _ONE,
            {"2": _TWO},
            _of("conn", "keepalive-50", "bulk-up-8", "memory"),
        ),
    )
}


def choose(wanted: Sequence[str]) -> list[Feature]:
    """The named features in their usual order, all when none is named. Raises :class:`BenchmarkError`."""
    if unknown := [name for name in wanted if name not in FEATURES]:
        raise BenchmarkError(f"There is no feature {', '.join(unknown)}. There are: {', '.join(FEATURES)}.")
    return [feature for name, feature in FEATURES.items() if not wanted or name in wanted]


def plan(features: Sequence[Feature], rounds: int) -> list[Turn]:
    """Off, on, and again: the sides of a feature follow each other directly, in every round."""
    made = []
    for number in range(1, rounds + 1):
        for feature in features:
            sides = {id(candidate): side for side, candidate in feature.sides.items()}
            present = [candidate for candidate in feature.sides.values() if not candidate.missing()]
            for turn in turns(present, feature.metrics, 1):
                label = feature.label(sides[id(turn.candidate)])
                made.append(replace(turn, round=number, label=label))
    return made
