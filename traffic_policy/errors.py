"""The base of all errors of Podlane, and those about policies. Every error says what is wrong and what to do about
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST_TOLD: Final = 50
"""Problems that the text of an error has."""


def shortened(text: str, longest: int) -> str:
    """A text of at most ``longest`` characters and an ellipsis: how it begins, and how it ends."""
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-(longest // 2) :]}"


class PodlaneError(Exception):
    """Base of everything that any package of Podlane raises on purpose. Its text is for people."""


class ConfigError(PodlaneError, ValueError):
    """Invalid settings of a command or a daemon."""


class UnitError(PodlaneError, ValueError):
    """A rate, byte count or duration cannot be read."""


@dataclass(frozen=True, slots=True)
class Mend:
    """A change that takes a problem away: another value at a path of the policy. ``raises`` or lowers what is there."""

    path: str
    value: str
    raises: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a policy.

    ``path`` is where (``classes[2].match[0].port``), ``message`` what, ``remedy`` how to mend it, for people;
    ``mends``: those of its ways that a program can go, each alone.
    """

    path: str
    message: str
    remedy: str = ""
    mends: tuple[Mend, ...] = ()

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}{' ' + self.remedy if self.remedy else ''}"


class PolicyError(PodlaneError, ValueError):
    """A policy cannot be used. ``problems`` has every reason, in the order of the document."""

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        if len(self.problems) == 1:
            return f"{head}{self.problems[0]}"
        lines = [f"  - {problem}" for problem in self.problems[:MOST_TOLD]]
        if len(self.problems) > MOST_TOLD:
            lines.append(f"  - and {len(self.problems) - MOST_TOLD} more")
        return "\n".join([f"{head}{len(self.problems)} problems:", *lines])
