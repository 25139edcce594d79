"""Exceptions of handing on."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class OutboxError(PodlaneError):
    """Kafka did not take what it was sent. Nothing is lost: it is sent again."""


class GapError(PodlaneError):
    """The topic lacks events: read them from the control plane, and go on."""
