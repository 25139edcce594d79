"""What a channel is told, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from control_plane.domain.alert_book import Alert, AlertState
from control_plane.domain.alert_channels import AlertChannel


@dataclass(frozen=True, slots=True)
class AlertNotice:
    """How an alert stands. Times are Unix seconds; ``ended`` 0: it is not over."""

    id: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    state: AlertState
    at: int
    ended: int
    reason: str = ""

    @classmethod
    def describe(cls, alert: Alert) -> AlertNotice:
        """Of an alert, as it is now."""
        return cls(alert.id, alert.labels, alert.annotations, alert.state, alert.at, alert.ended, alert.reason)

    @property
    def summary(self) -> str:
        """In one line."""
        return self.annotations.get("summary") or self.labels.get("alertname", "")


@dataclass(frozen=True, slots=True)
class SentNotices:
    """Whether a channel took what it was told. ``again``: it is worth to try again. ``says``: what happened, without
    secrets."""

    sent: bool
    says: str
    again: bool = False


class AlertSender(Protocol):
    """Tells one kind of channel. Blocks for some seconds at most, and never raises for what is the other's fault."""

    def send(
        self, tenant: str, name: str, channel: AlertChannel, secret: str, notices: Sequence[AlertNotice]
    ) -> SentNotices: ...


def rfc3339(seconds: float) -> str:
    """A time as Alertmanager and webhooks have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
