"""Exceptions of ``podlane``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class NotPermittedError(PodlaneError):
    """The process lacks a permission that the verb needs; the message says which, and how to get it."""


class ToolMissingError(PodlaneError):
    """A system command is not installed; the message names its package."""


class LabError(PodlaneError):
    """A network namespace, link, address, route or rule cannot be created."""


class SpawnError(PodlaneError):
    """A program cannot be started. ``errno`` is the reason, ``stage`` the failed operation."""

    def __init__(self, stage: str, errno: int, message: str) -> None:
        self.stage = stage
        self.errno = errno
        super().__init__(message)


class RunError(PodlaneError):
    """``podlane run`` cannot create or keep its namespace."""


class DemoError(PodlaneError):
    """A server, a client or the sidecar of ``podlane demo`` failed; the message has its last output."""


class CaptureError(PodlaneError):
    """A capture file cannot be read, or is invalid."""


class ManifestFileError(PodlaneError):
    """A manifest, or a policy for one, cannot be read or written."""


class ResultError(PodlaneError):
    """A verb completed with a result that counts as failure; everything has been reported already."""
