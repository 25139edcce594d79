"""The error tree of ``podlane``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class NotPermittedError(PodlaneError):
    """The process may not do what the verb needs; the text says what is missing and how to get it."""


class ToolMissingError(PodlaneError):
    """A command of the system is not installed; the text names the package that has it."""


class LabError(PodlaneError):
    """A network namespace, link, address, route or rule cannot be made."""


class SpawnError(PodlaneError):
    """A program cannot be started. ``errno`` says why, ``stage`` what was being done."""

    def __init__(self, stage: str, errno: int, message: str) -> None:
        self.stage = stage
        self.errno = errno
        super().__init__(message)


class RunError(PodlaneError):
    """``podlane run`` cannot start or keep its namespace."""


class DemoError(PodlaneError):
    """A server, a client or the sidecar of ``podlane demo`` failed; the text has its last words."""


class CaptureError(PodlaneError):
    """A capture file cannot be read, or is none."""


class ManifestFileError(PodlaneError):
    """A manifest, or a policy for one, cannot be read or written."""


class ResultError(PodlaneError):
    """A verb finished, and what it found counts as failure; everything has been said already."""
