"""The exceptions of ``tc_core``. Every message has the problem and a remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class MissingFeatureError(PodlaneError):
    """The running kernel lacks a feature that the plan needs."""

    def __init__(self, feature: str, remedy: str) -> None:
        self.feature = feature
        self.remedy = remedy
        super().__init__(f"{feature} {remedy}")


class KernelError(PodlaneError):
    """The kernel refused an operation. ``errno`` is its error number."""

    def __init__(self, operation: str, errno: int, detail: str, remedy: str = "") -> None:
        self.operation = operation
        self.errno = errno
        self.detail = detail
        self.remedy = remedy
        super().__init__(f"{operation}: {detail}.{' ' + remedy if remedy else ''}")


class InterfaceNotFoundError(PodlaneError):
    """No network interface has that name in this namespace."""


class ForeignQdiscError(PodlaneError):
    """The interface has a root qdisc of another program."""


class HistoryError(PodlaneError):
    """The change history cannot be opened, read or written, or has no such change. Nothing in it was altered."""


class ForeignLinkError(PodlaneError):
    """An interface of another program has the name that we need."""
