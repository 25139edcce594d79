"""Tells an Alertmanager: https://prometheus.io/docs/alerting/latest/alerts_api/ (API v2)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.alerts.notices import AlertNotice, SentNotices, rfc3339
from control_plane.alerts.reach import Reach, post_json
from control_plane.domain.alert_channels import AlertChannel

RESEND: Final = 30
"""Seconds after which it is told again what fires."""
_VALID: Final = 4 * RESEND
"""Seconds after which it takes an alert for over, of which it does not hear again."""


@dataclass(frozen=True, slots=True)
class AlertmanagerSender:
    """Alerts go with all labels and annotations. The secret, if there is one, is a bearer token."""

    reach: Reach
    clock: Callable[[], float] = time.time

    def send(
        self, tenant: str, name: str, channel: AlertChannel, secret: str, notices: Sequence[AlertNotice]
    ) -> SentNotices:
        """See :class:`~control_plane.alerts.notices.AlertSender`."""
        del tenant, name  # it is among the labels, and Alertmanager has receivers of its own
        alerts = [
            {
                "labels": {key: value for key, value in each.labels.items() if value},
                "annotations": dict(each.annotations),
                "startsAt": rfc3339(each.at),
                "endsAt": rfc3339(each.ended or max(each.at, self.clock()) + _VALID),
            }
            for each in notices
        ]
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        url = f"{channel.url.rstrip('/')}/api/v2/alerts"
        return post_json(self.reach, url, channel.ca, json.dumps(alerts).encode(), headers)
