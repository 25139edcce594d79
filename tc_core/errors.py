"""The error tree of ``tc_core``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class MissingFeatureError(PodlaneError):
    """The running kernel cannot do what the plan needs."""

    def __init__(self, feature: str, remedy: str) -> None:
        self.feature = feature
        self.remedy = remedy
        super().__init__(f"{feature} {remedy}")


class KernelError(PodlaneError):
    """The kernel refused an operation. ``errno`` is the number it gave."""

    def __init__(self, operation: str, errno: int, detail: str, remedy: str = "") -> None:
        self.operation = operation
        self.errno = errno
        self.detail = detail
        self.remedy = remedy
        super().__init__(f"{operation}: {detail}.{' ' + remedy if remedy else ''}")


class InterfaceNotFoundError(PodlaneError):
    """There is no network interface of that name here."""


class ForeignQdiscError(PodlaneError):
    """The interface already has a root qdisc that somebody else installed."""


class HistoryError(PodlaneError):
    """The change history cannot be opened, read or written, or has no such change. Nothing in it was altered."""


class ForeignLinkError(PodlaneError):
    """There is an interface of the name that we need, and somebody else made it."""
