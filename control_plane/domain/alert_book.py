"""A tenant's rules, channels, silences and alerts, folded from its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from control_plane.domain.alert_channels import AlertChannel, AlertSilence
from control_plane.domain.alert_rules import AlertRule
from control_plane.domain.events import (
    AlertChannelRemoved,
    AlertChannelSet,
    AlertEvent,
    AlertFired,
    AlertResolved,
    AlertRuleRemoved,
    AlertRuleSet,
    AlertsTold,
    SilenceEnded,
    SilenceSet,
)

MOST_RESOLVED: Final = 200
"""Alerts that are over and are remembered, the last ones."""
_STALE: Final = 3600
"""Seconds after which nobody wants to be told that something is over."""


class AlertState(StrEnum):
    """How an alert stands. Those that are pending are in no event."""

    PENDING = "pending"
    """Its value is beyond the threshold, but not for long enough."""
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(slots=True)
class Alert:
    """``since``: when its value went beyond the threshold; ``at``: when it fired; ``ended``: when it was over, 0 for
    one that is not. ``told``: what each channel was told last."""

    id: str
    rule: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float
    since: int
    at: int
    ended: int = 0
    reason: str = ""
    told: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    """Why channels could not be told."""

    @property
    def state(self) -> AlertState:
        return AlertState.RESOLVED if self.ended else AlertState.FIRING


@dataclass(slots=True)
class AlertBook:
    """All of one tenant, by name or id."""

    rules: dict[str, AlertRule] = field(default_factory=dict)
    channels: dict[str, AlertChannel] = field(default_factory=dict)
    silences: dict[str, AlertSilence] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)

    @property
    def firing(self) -> list[Alert]:
        return [alert for alert in self.alerts.values() if not alert.ended]

    def silenced(self, labels: Mapping[str, str], now: float) -> list[str]:
        """The silences that mute an alert with these labels now."""
        return [id for id, silence in self.silences.items() if silence.mutes(labels, now)]

    def untold(self, channel: str, now: float) -> Iterator[Alert]:
        """Alerts of whose state a channel does not know, and is to."""
        for alert in self.alerts.values():
            rule = self.rules.get(alert.rule)
            known = alert.told.get(channel)
            if alert.ended:
                wanted = known == AlertState.FIRING and now - alert.ended < _STALE
            else:
                wanted = known is None and rule is not None and (not rule.channels or channel in rule.channels)
            if wanted and not self.silenced(alert.labels, now):
                yield alert

    def apply(self, event: AlertEvent) -> None:
        """Take in the next event."""
        match event:
            case AlertRuleSet(name, document):
                self.rules[name] = AlertRule.from_document(document)
            case AlertRuleRemoved(name, at):
                del self.rules[name]
                for alert in self.firing:
                    if alert.rule == name:
                        alert.ended, alert.reason = at, "the rule was removed"
                self._forget()
            case AlertChannelSet(name, document):
                self.channels[name] = AlertChannel.from_document(document)
                self._untell(name, self.firing)  # whoever it is now has not been told
            case AlertChannelRemoved(name):
                del self.channels[name]
                self._untell(name, self.alerts.values())
            case SilenceSet(id, document, at):
                self.silences = {id: each for id, each in self.silences.items() if each.ends_at > at}
                self.silences[id] = AlertSilence.from_document(document)
            case SilenceEnded(id):
                del self.silences[id]
            case AlertFired(rule, id, labels, annotations, value, since, at):
                self.alerts[id] = Alert(id, rule, labels, annotations, value, since, at)
            case AlertResolved(_, id, at, reason):
                self.alerts[id].ended, self.alerts[id].reason = at, reason
                self._forget()
            case AlertsTold(channel, states, _, trouble):
                for id, state in states.items():
                    alert = self.alerts[id]
                    alert.told[channel] = state
                    alert.troubles.pop(channel, None)
                    if trouble:
                        alert.troubles[channel] = trouble

    @staticmethod
    def _untell(channel: str, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            alert.told.pop(channel, None)
            alert.troubles.pop(channel, None)

    def _forget(self) -> None:
        ended = sorted((alert for alert in self.alerts.values() if alert.ended), key=lambda each: (each.ended, each.id))
        for alert in ended[:-MOST_RESOLVED]:
            del self.alerts[alert.id]
