"""Exceptions of ``sidecar``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class WorkersError(PodlaneError):
    """Worker processes cannot be started or kept alive."""


class SupervisorError(PodlaneError):
    """The sidecar's supervisor cannot be reached."""
