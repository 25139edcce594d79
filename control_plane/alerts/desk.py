"""What the API asks of alerts besides the log: values as they are now, a test of a channel, a trial of a rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from threading import Lock
from typing import Final

from control_plane.alerts.alertmanager import AlertmanagerSender
from control_plane.alerts.driver import AlertView
from control_plane.alerts.mail import MailSender
from control_plane.alerts.notices import AlertNotice, AlertSender, SentNotices
from control_plane.alerts.reach import Reach
from control_plane.alerts.secrets import ChannelSecrets
from control_plane.alerts.sight import figures_for, lane_labels
from control_plane.alerts.teller import AlertTeller
from control_plane.alerts.webhook import WebhookSender
from control_plane.domain.alert_book import AlertState
from control_plane.domain.alert_channels import AlertChannel, ChannelKind
from control_plane.domain.alert_evaluation import AlertReading, RuleWatch
from control_plane.domain.alert_rules import LOOK_BACK, AlertRule
from control_plane.domain.commands import FireAlert
from control_plane.domain.errors import TooManyError
from control_plane.fleet.agent_status import TenantAgents
from control_plane.fleet.figures import LaneSeries, moving_totals
from control_plane.service import ControlPlane

_TEST: Final = "podlane-test"
_WAIT: Final = 2
"""Seconds after which a rule may be tried that could not be at once."""


@dataclass(frozen=True, slots=True)
class AlertTrial:
    """What would have come of a rule: what had fired when, and how long each had been firing; ``worst`` is the worst
    value of all, None if there was none. ``seconds``: how long it could be looked back."""

    seconds: int
    fired: tuple[tuple[int, FireAlert, int], ...]
    worst: float | None


@dataclass(frozen=True, slots=True)
class AlertDesk:
    """``view`` is written by the driver of this process."""

    view: AlertView
    teller: AlertTeller
    clock: Callable[[], float] = time.time
    _trying: Lock = field(default_factory=Lock)

    def try_rule(self, tenant: str, name: str, rule: AlertRule, agents: TenantAgents, until: int) -> AlertTrial:
        """One at a time: over hundreds of lanes it takes seconds. Raises :class:`TooManyError`."""
        if not self._trying.acquire(blocking=False):
            raise TooManyError("Another rule is being tried.", _WAIT)
        try:
            return try_rule(tenant, name, rule, agents, until)
        finally:
            self._trying.release()

    def test(self, tenant: str, name: str, channel: AlertChannel) -> SentNotices:
        """Tell a channel of an alert that is none, and that it is over. Blocks for some seconds at most."""
        now = int(self.clock())
        labels = {"alertname": _TEST, "tenant": tenant, "severity": "info"}
        annotations = {"summary": f"This is a test of the channel {name}. Nothing has happened."}
        notice = AlertNotice(_TEST, labels, annotations, AlertState.RESOLVED, now - 1, now, "it was a test")
        return self.teller.try_now(tenant, name, channel, notice)


def desk_of(
    plane: ControlPlane, reach: Reach | None = None, secrets: ChannelSecrets | None = None,
    clock: Callable[[], float] = time.time,
) -> AlertDesk:  # fmt: skip
    """With all that can tell somebody."""
    reach = reach or Reach()
    senders: dict[ChannelKind, AlertSender] = {
        ChannelKind.ALERTMANAGER: AlertmanagerSender(reach, clock),
        ChannelKind.WEBHOOK: WebhookSender(reach, clock),
        ChannelKind.EMAIL: MailSender(reach),
    }
    return AlertDesk(AlertView(), AlertTeller(plane, senders, secrets or ChannelSecrets(), clock), clock)


def try_rule(tenant: str, name: str, rule: AlertRule, agents: TenantAgents, until: int) -> AlertTrial:
    """A rule over the figures of the last fifteen minutes, second by second, by what judges it when it is in force.

    Of rules that look at anything but traffic nothing is known of the past: ``seconds`` is 0.
    """
    if not rule.kind.of_traffic:
        return AlertTrial(0, (), None)
    figures = figures_for(rule, agents)
    until = until if figures is None else figures.settled(until)
    series = [] if figures is None else figures.window(until, LOOK_BACK, rule.scope.get("policy"))
    known = [each for each in series if rule.covers(_labels(each, rule))]
    watch = RuleWatch(tenant, name, rule)
    firing: dict[str, tuple[int, FireAlert]] = {}
    fired: list[tuple[int, FireAlert, int]] = []
    worst = None
    ends = range(until - LOOK_BACK + rule.over, until + 1)
    for now, readings in zip(ends, _past(known, rule), strict=False):
        worst = max(chain([] if worst is None else [worst], (each.value for each in readings)), default=None)
        for command in watch.step(readings, frozenset(firing), now):
            if isinstance(command, FireAlert):
                firing[command.alert] = now, command
            else:
                at, begun = firing.pop(command.alert)
                fired.append((at, begun, now - at))
    fired += [(at, begun, until - at) for at, begun in firing.values()]
    return AlertTrial(LOOK_BACK - rule.over, tuple(sorted(fired, key=lambda each: each[0])), worst)


def _labels(series: LaneSeries, rule: AlertRule) -> dict[str, str]:
    return lane_labels((series.policy, series.lane, series.direction), rule.scope.get("cluster", ""))


def _past(known: list[LaneSeries], rule: AlertRule) -> Iterator[list[AlertReading]]:
    """The values of each second. Seconds in which nothing was heard of a lane have none of it."""
    labels = [_labels(each, rule) for each in known]
    for totals in zip(*(moving_totals(each, rule.over) for each in known), strict=True):
        yield [
            AlertReading(label, total.value(rule.kind))
            for label, total in zip(labels, totals, strict=True)
            if total.heard
        ]
