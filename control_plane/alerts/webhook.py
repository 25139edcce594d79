"""Tells a webhook: a POST with all alerts as JSON, signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.alerts.notices import AlertNotice, SentNotices, rfc3339
from control_plane.alerts.reach import Reach, post_json
from control_plane.domain.alert_channels import AlertChannel

SIGNATURE: Final = "Podlane-Signature"


@dataclass(frozen=True, slots=True)
class WebhookSender:
    """The secret, if there is one, is the key of the signature."""

    reach: Reach
    clock: Callable[[], float] = time.time

    def send(
        self, tenant: str, name: str, channel: AlertChannel, secret: str, notices: Sequence[AlertNotice]
    ) -> SentNotices:
        """See :class:`~control_plane.alerts.notices.AlertSender`."""
        alerts = [
            {
                "id": each.id,
                "state": each.state.value,
                "summary": each.summary,
                "labels": dict(each.labels),
                "annotations": dict(each.annotations),
                "starts_at": rfc3339(each.at),
                "ends_at": rfc3339(each.ended) if each.ended else None,
                "reason": each.reason,
            }
            for each in notices
        ]
        body = json.dumps({"version": 1, "tenant": tenant, "channel": name, "alerts": alerts}).encode()
        headers = {"User-Agent": "podlane"}
        if secret:
            headers[SIGNATURE] = signature(secret, int(self.clock()), body)
        return post_json(self.reach, channel.url, channel.ca, body, headers)


def signature(secret: str, at: int, body: bytes) -> str:
    """``t=UNIX SECONDS,v1=HEX``: HMAC-SHA256 (RFC 2104) over the time, a dot and the body. The time is signed, so that
    who has heard one cannot send it again later."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
