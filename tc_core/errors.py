"""The error tree of ``tc_core``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TcError(Exception):
    """Base of everything this package raises on purpose."""


class UnitError(TcError, ValueError):
    """A rate, byte count or duration cannot be read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a policy.

    ``path`` is where (``classes[2].match[0].port``), ``message`` what, ``remedy`` how to mend it.
    """

    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}{' ' + self.remedy if self.remedy else ''}"


class PolicyError(TcError, ValueError):
    """A policy cannot be used. ``problems`` has every reason, in the order of the document."""

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        if len(self.problems) == 1:
            return f"{head}{self.problems[0]}"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        return f"{head}{len(self.problems)} problems:\n{lines}"


class MissingFeatureError(TcError):
    """The running kernel cannot do what the plan needs."""

    def __init__(self, feature: str, remedy: str) -> None:
        self.feature = feature
        self.remedy = remedy
        super().__init__(f"{feature} {remedy}")


class KernelError(TcError):
    """The kernel refused an operation. ``errno`` is the number it gave."""

    def __init__(self, operation: str, errno: int, detail: str, remedy: str = "") -> None:
        self.operation = operation
        self.errno = errno
        self.detail = detail
        self.remedy = remedy
        super().__init__(f"{operation}: {detail}.{' ' + remedy if remedy else ''}")


class InterfaceNotFoundError(TcError):
    """There is no network interface of that name here."""


class ForeignQdiscError(TcError):
    """The interface already has a root qdisc that somebody else installed."""


class HistoryError(TcError):
    """The change history cannot be opened, read or written, or has no such change. Nothing in it was altered."""


class ForeignLinkError(TcError):
    """There is an interface of the name that we need, and somebody else made it."""
