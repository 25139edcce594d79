"""Exceptions of ``daemon``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class PortInUseError(PodlaneError):
    """A listener's port is taken, by a second instance or by another program."""
