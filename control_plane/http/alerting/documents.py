"""What requests and responses about alerts have in their bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from control_plane.alerts.desk import AlertTrial
from control_plane.domain.alert_book import Alert, AlertBook, AlertState
from control_plane.domain.alert_channels import AlertChannel, AlertMatcher, AlertSilence, ChannelKind, MailSecurity
from control_plane.domain.alert_evaluation import SeenValue, worst_first
from control_plane.domain.alert_rules import AlertKind, AlertRule, AlertSeverity
from control_plane.http.documents import Asked

_MOST_SHOWN = 20


class AlertRuleWish(Asked):
    """See :class:`~control_plane.domain.alert_rules.AlertRule`. ``over`` and ``for`` in seconds."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    kind: AlertKind
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    scope: dict[str, str] = Field(default_factory=dict)
    over: int = 60
    hold: Annotated[int, Field(alias="for")] = 0
    severity: AlertSeverity = AlertSeverity.WARNING
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    channels: list[str] = Field(default_factory=list)

    def rule(self) -> AlertRule:
        """Raises :class:`~control_plane.domain.errors.InvalidError`."""
        return AlertRule(
            self.kind, self.threshold, self.scope, self.over, self.hold, self.severity, self.labels, self.annotations,
            tuple(self.channels),
        )  # fmt: skip


class SeenValueDocument(BaseModel):
    """A value now; ``state`` null: it is good. ``since`` in Unix seconds; ``says``: the value for people."""

    labels: dict[str, str]
    value: float
    says: str
    state: Literal["pending", "firing"] | None
    since: int


class AlertRuleDocument(BaseModel):
    """``state`` null: nothing fires, and this process has not looked at it. ``values``: the worst of those
    that were seen last."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    name: str
    version: int
    kind: AlertKind
    threshold: float
    scope: dict[str, str]
    over: int
    hold: Annotated[int, Field(alias="for")]
    severity: AlertSeverity
    labels: dict[str, str]
    annotations: dict[str, str]
    channels: list[str]
    state: Literal["inactive", "pending", "firing"] | None
    firing: int
    values: list[SeenValueDocument]

    @classmethod
    def describe(
        cls, name: str, version: int, document: Mapping[str, Any], seen: Sequence[SeenValue] | None, firing: int
    ) -> AlertRuleDocument:
        """``document`` is that of the rule, as it is stored. ``firing``: how many alerts of it do."""
        kind = AlertKind(document["kind"])
        states = {each.state for each in seen or ()}
        state: Literal["inactive", "pending", "firing"] = "inactive"
        if firing:
            state = "firing"
        elif AlertState.PENDING in states:
            state = "pending"
        return cls(
            name=name,
            version=version,
            **document,
            state=None if seen is None and not firing else state,
            firing=firing,
            values=[
                SeenValueDocument(
                    labels=dict(each.labels), value=each.value, says=kind.tell(each.value),
                    state=None if each.state is None else each.state.value, since=each.since,
                )
                for each in worst_first(kind, seen or ())[:_MOST_SHOWN]
            ],
        )  # fmt: skip


class ToldDocument(BaseModel):
    """What a channel was told last; ``trouble``: why it could not be."""

    channel: str
    state: str
    trouble: str


class AlertDocument(BaseModel):
    """``since``: when its value went beyond the threshold; ``at``: when it fired; ``ended``: when it was over, null if
    it is not (Unix seconds). ``value`` is that at which it fired. ``silenced_by``: ids of silences."""

    id: str
    rule: str
    state: Literal["firing", "resolved"]
    severity: AlertSeverity
    labels: dict[str, str]
    annotations: dict[str, str]
    value: float
    since: int
    at: int
    ended: int | None
    reason: str
    silenced_by: list[str]
    told: list[ToldDocument]

    @classmethod
    def from_row(cls, row: Mapping[str, Any], book: AlertBook, now: int) -> AlertDocument:
        """From :data:`~control_plane.read_models.lists.ALERTS`, with what the state has besides."""
        alert: Alert | None = book.alerts.get(row["id"])
        labels = json.loads(row["labels"])
        told = {} if alert is None else alert.told
        troubles = {} if alert is None else alert.troubles
        return cls(
            id=row["id"],
            rule=row["rule"],
            state=row["state"],
            severity=row["severity"],
            labels=labels,
            annotations=json.loads(row["annotations"]),
            value=json.loads(row["value"]),
            since=row["since"],
            at=row["at"],
            ended=row["ended"] or None,
            reason=row["reason"],
            silenced_by=book.silenced(labels, now),
            told=[
                ToldDocument(channel=channel, state=state, trouble=troubles.get(channel, ""))
                for channel, state in sorted(told.items())
            ],
        )


class TrialWish(Asked):
    """A rule that is not in force."""

    name: str = "trial"
    rule: AlertRuleWish


class TrialAlert(BaseModel):
    """One that would have fired ``at`` (Unix seconds), for ``seconds``."""

    at: int
    seconds: int
    labels: dict[str, str]
    summary: str


class TrialDocument(BaseModel):
    """How often a rule would have fired over the last ``seconds``; 0: nothing of the past is known to look at.

    ``worst`` is the worst value, null if there was none. ``alerts`` are the first of those ``fired``.
    """

    seconds: int
    fired: int
    worst: float | None
    says: str
    alerts: list[TrialAlert]

    @classmethod
    def describe(cls, rule: AlertRule, trial: AlertTrial) -> TrialDocument:
        if not trial.seconds:
            says = f"Of what rules of the kind {rule.kind} look at, the past is not kept"
        else:
            times = f"{len(trial.fired)} time{'s' if len(trial.fired) != 1 else ''}"
            worst = "there was nothing to look at" if trial.worst is None else f"at worst {rule.kind.tell(trial.worst)}"
            says = f"It would have fired {times} in the last {trial.seconds} s; {worst}"
        return cls(
            seconds=trial.seconds,
            fired=len(trial.fired),
            worst=trial.worst,
            says=says,
            alerts=[
                TrialAlert(
                    at=at, seconds=seconds, labels=dict(each.labels), summary=each.annotations.get("summary", "")
                )
                for at, each, seconds in trial.fired[:_MOST_SHOWN]
            ],
        )


class MatcherWish(Asked):
    """See :class:`~control_plane.domain.alert_channels.AlertMatcher`."""

    name: str
    value: str
    differs: bool = False


class SilenceWish(Asked):
    """``starts_at`` null: now (Unix seconds)."""

    matchers: list[MatcherWish]
    starts_at: Annotated[int, Field(ge=0, le=2**53)] | None = None
    ends_at: Annotated[int, Field(ge=0, le=2**53)]
    comment: str

    def silence(self, author: str, now: int) -> AlertSilence:
        """Raises :class:`~control_plane.domain.errors.InvalidError`."""
        matchers = tuple(AlertMatcher(each.name, each.value, each.differs) for each in self.matchers)
        return AlertSilence(
            matchers, now if self.starts_at is None else self.starts_at, self.ends_at, self.comment, author
        )


class SilencedAlert(BaseModel):
    id: str
    rule: str
    summary: str


class SilenceDocument(BaseModel):
    """``matches``: how many of the alerts that fire now it is about, whether or not it has begun; ``alerts`` are the
    first of them."""

    id: str
    version: int
    matchers: list[MatcherWish]
    starts_at: int
    ends_at: int
    comment: str
    author: str
    state: Literal["pending", "active", "expired"]
    matches: int
    alerts: list[SilencedAlert]

    @classmethod
    def describe(cls, id: str, version: int, document: Mapping[str, Any], book: AlertBook, now: int) -> SilenceDocument:
        """``document`` is that of the silence, as it is stored."""
        silence = AlertSilence.from_document(document)
        matched = [alert for alert in book.firing if silence.matches(alert.labels)]
        state: Literal["pending", "active", "expired"] = "active"
        if now < silence.starts_at:
            state = "pending"
        elif now >= silence.ends_at:
            state = "expired"
        return cls(
            id=id,
            version=version,
            **document,
            state=state,
            matches=len(matched),
            alerts=[
                SilencedAlert(id=each.id, rule=each.rule, summary=each.annotations.get("summary", ""))
                for each in matched[:_MOST_SHOWN]
            ],
        )


class ChannelWish(Asked):
    """See :class:`~control_plane.domain.alert_channels.AlertChannel`."""

    kind: ChannelKind
    url: str = ""
    server: str = ""
    sender: str = ""
    to: list[str] = Field(default_factory=list)
    user: str = ""
    security: MailSecurity = MailSecurity.STARTTLS
    ca: str = ""

    def channel(self) -> AlertChannel:
        """Raises :class:`~control_plane.domain.errors.InvalidError`."""
        return AlertChannel(
            self.kind, self.url, self.server, self.sender, tuple(self.to), self.user, self.security, self.ca
        )


class ChannelDocument(ChannelWish):
    """Nothing of it is secret. ``trouble``: why it could not be told the last time, as far as this process knows."""

    name: str
    version: int
    trouble: str


class ChannelTest(BaseModel):
    """Whether a channel took a test, and what happened."""

    sent: bool
    says: str
