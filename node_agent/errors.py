"""Exceptions of ``node_agent``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class WorkloadsError(PodlaneError, ValueError):
    """The file of workloads cannot be used."""


class CleanupError(PodlaneError):
    """Something of an agent is left."""
