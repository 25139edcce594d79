"""From what is seen, second by second, to alerts that fire and are over. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from control_plane.domain.alert_book import AlertState
from control_plane.domain.alert_rules import AlertKind, AlertRule, render
from control_plane.domain.commands import FireAlert, ResolveAlert

CALM: Final = 30
"""Seconds for which a value has to be good until an alert is over: one that comes and goes is one alert."""
STALE: Final = 300
"""Seconds without any value after which an alert is over: what it was about is no more."""
_FEW: Final = 100
"""Packets of which a share says nothing."""
_MOST_TRACKED: Final = 1000
"""Values of one rule that are watched."""


@dataclass(frozen=True, slots=True)
class LaneTotals:
    """What went through a lane over some seconds. Counters are sums; gauges are sums of each second's value, of the
    ``heard`` seconds in which agents have said something."""

    bytes: int = 0
    packets: int = 0
    dropped: int = 0
    overlimits: int = 0
    ceil: int = 0
    below: int = 0
    heard: int = 0

    def value(self, kind: AlertKind) -> float:
        """The value that a kind of rule looks at."""
        match kind:
            case AlertKind.THROTTLED:
                return min(1.0, self.overlimits / self.packets) if self.packets >= _FEW else 0.0
            case AlertKind.DROPPED:
                offered = self.packets + self.dropped
                return self.dropped / offered if offered >= _FEW else 0.0
            case AlertKind.BUDGET:
                return self.bytes * 8 / self.ceil if self.ceil else 0.0
            case AlertKind.BELOW_GUARANTEE:
                return self.below / self.heard if self.heard else 0.0
        raise ValueError(f"{kind} is not of lanes")


@dataclass(frozen=True, slots=True)
class AlertReading:
    """A value, and of what: ``labels`` say of which cluster, policy or lane. ``details`` are for templates."""

    labels: Mapping[str, str]
    value: float
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeenValue:
    """A value as it was seen last, and what has become of it. ``state`` None: it is good."""

    labels: Mapping[str, str]
    value: float
    state: AlertState | None
    since: int


def worst_first(kind: AlertKind, seen: Sequence[SeenValue]) -> list[SeenValue]:
    """Values that a kind of rule has seen, in the order of what is bad."""
    return sorted(seen, key=lambda each: each.value, reverse=kind is not AlertKind.CERTIFICATE_EXPIRY)


@dataclass(slots=True)
class _Track:
    """``since``: from when on the value has been beyond the threshold; ``calm``: since when it is not any more, while
    its alert still fires; ``seen``: when there was one last."""

    seen: int
    since: int | None = None
    calm: int | None = None


def alert_id(rule: str, labels: Mapping[str, str]) -> str:
    """The same for the same rule and the same cluster, policy or lane."""
    return hashlib.sha256(json.dumps([rule, sorted(labels.items())]).encode()).hexdigest()[:16]


class RuleWatch:
    """One rule over time. ``firing`` are ids of its alerts that fire, whoever said so."""

    def __init__(self, tenant: str, name: str, rule: AlertRule) -> None:
        self.rule = rule
        self._tenant = tenant
        self._name = name
        self._tracks: dict[str, _Track] = {}
        self._ids: dict[tuple[tuple[str, str], ...], str] = {}
        """By labels: a digest for each value and second would be most of the work."""
        self.seen: Sequence[SeenValue] = ()
        """What was seen last, in no order."""

    def step(
        self, readings: Sequence[AlertReading], firing: frozenset[str], now: int
    ) -> list[FireAlert | ResolveAlert]:
        """What has come of the values at ``now``. To be called with times that do not go back."""
        decided: list[FireAlert | ResolveAlert] = []
        seen: list[SeenValue] = []
        for reading in readings:
            id = self._id(reading.labels)
            track = self._tracks.get(id)
            if track is None:
                if len(self._tracks) >= _MOST_TRACKED:
                    continue
                track = self._tracks[id] = _Track(now)
            track.seen = now
            state, command = self._one(id, reading, track, fires=id in firing, now=now)
            decided += [command] if command else []
            seen.append(SeenValue(reading.labels, reading.value, state, now if track.since is None else track.since))
        decided += self._gone(firing, now)
        self.seen = seen
        return decided

    def _id(self, labels: Mapping[str, str]) -> str:
        key = tuple(labels.items())
        found = self._ids.get(key)
        if found is None:
            if len(self._ids) >= _MOST_TRACKED:
                self._ids.clear()
            found = self._ids[key] = alert_id(self._name, labels)
        return found

    def _one(
        self, id: str, reading: AlertReading, track: _Track, *, fires: bool, now: int
    ) -> tuple[AlertState | None, FireAlert | ResolveAlert | None]:
        rule = self.rule
        if rule.kind.exceeds(reading.value, rule.threshold):
            track.calm = None
            track.since = now if track.since is None else track.since
            if fires:
                return AlertState.FIRING, None
            if now - track.since < rule.hold:
                return AlertState.PENDING, None
            return AlertState.FIRING, self._fire(id, reading, track.since)
        track.since = None
        if not fires:
            track.calm = None
            return None, None
        track.calm = now if track.calm is None else track.calm
        if now - track.calm < CALM:
            return AlertState.FIRING, None
        track.calm = None
        return None, ResolveAlert(self._name, id, f"{rule.kind.tell(reading.value)} now")

    def _gone(self, firing: frozenset[str], now: int) -> list[FireAlert | ResolveAlert]:
        """Of what there are no values any more."""
        for id in firing - self._tracks.keys():
            self._tracks[id] = _Track(now)  # it fired before this process began
        decided: list[FireAlert | ResolveAlert] = []
        for id, track in list(self._tracks.items()):
            if track.seen == now:
                continue
            track.since = track.calm = None
            if id not in firing:
                del self._tracks[id]
            elif now - track.seen >= STALE:
                del self._tracks[id]
                decided.append(ResolveAlert(self._name, id, f"there was nothing to see for {STALE} s"))
        return decided

    def _fire(self, id: str, reading: AlertReading, since: int) -> FireAlert:
        rule = self.rule
        own = {
            "alertname": self._name,
            "tenant": self._tenant,
            "kind": rule.kind.value,
            "severity": rule.severity.value,
            **reading.labels,
        }
        told = {"value": rule.kind.tell(reading.value), "threshold": rule.kind.tell(rule.threshold)}
        values = {**own, **told, **reading.details}
        return FireAlert(
            self._name,
            id,
            {**own, **{name: render(text, values) for name, text in rule.labels.items()}},
            {name: render(text, values) for name, text in {**summary(rule, reading), **rule.annotations}.items()},
            reading.value,
            since,
        )


_SUMMARIES: Final = {
    AlertKind.THROTTLED: "{{ value }} of the packets of {{ policy }}/{{ class }} ({{ direction }}) had to wait",
    AlertKind.DROPPED: "{{ value }} of the packets of {{ policy }}/{{ class }} ({{ direction }}) were dropped",
    AlertKind.BELOW_GUARANTEE: "{{ value }} workloads get less than {{ policy }}/{{ class }} grants ({{ direction }})",
    AlertKind.BUDGET: "{{ policy }}/{{ class }} ({{ direction }}) uses {{ value }} of what it may",
    AlertKind.VOLUME_BUDGET: "{{ value }} of the budget {{ budget }} used: {{ used }} of {{ bytes }} per {{ period }}",
    AlertKind.AGENTS_AWAY: "{{ count }} of {{ of }} agents of {{ cluster }} are away: {{ agents }}",
    AlertKind.ROLLOUT_STUCK: "the rollout of {{ policy }} has not gone on for {{ value }}",
    AlertKind.CERTIFICATE_EXPIRY: "a certificate of {{ cluster }} expires in {{ value }}: {{ agents }}",
}


def summary(rule: AlertRule, reading: AlertReading) -> dict[str, str]:
    """What an alert says, if its rule does not say it."""
    own = "{{ class }}" if "policy" not in reading.labels and "class" in reading.labels else None
    text = _SUMMARIES[rule.kind]
    return {"summary": text.replace("{{ policy }}/{{ class }}", "workloads' own policies") if own else text}
