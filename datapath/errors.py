"""The errors of ``datapath``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class PrivilegeError(PodlaneError):
    """The process lacks a capability it needs; the text names it and how to get it."""


class RulesetError(PodlaneError):
    """The capture rules cannot be installed, verified or removed."""


class QueueError(PodlaneError):
    """The queue by which the kernel shows packets cannot be used."""


class ConntrackError(PodlaneError):
    """The kernel's table of connections cannot be read or changed."""


class ConnectionListError(PodlaneError):
    """The connections that programs in the kernel decide cannot be listed."""


class InstanceRunningError(PodlaneError):
    """Another Podlane already works in this network namespace."""


class NetworkNamespaceError(PodlaneError):
    """A network namespace is not there, or cannot be entered; ``errno`` says why."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno
