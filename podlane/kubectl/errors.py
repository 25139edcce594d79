"""Exceptions of ``kubectl podlane``. Each message has the reason and the remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class ClusterError(PodlaneError):
    """kubectl failed, or an agent or sidecar cannot be asked."""


class NotThereError(ClusterError):
    """There is no such object."""


class ForbiddenError(ClusterError):
    """The user lacks a right; the message says which."""


class NotHeldError(ClusterError):
    """Nobody holds the Pod to limits, or whoever does cannot say."""
