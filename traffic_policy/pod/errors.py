"""The error tree of ``traffic_policy.pod``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from traffic_policy.errors import PodlaneError

_SHOWN: Final = 20
"""Problems that an error's text has; kubectl prints it as one line after another."""
_LONGEST: Final = 600
"""Characters of one problem's text; the longest of our own sentences have some 300."""


class QuantityError(PodlaneError, ValueError):
    """A text is no Kubernetes quantity, or none that makes sense where it stands."""


class DownwardError(PodlaneError, ValueError):
    """A text is not what a downward API volume makes of annotations."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``annotation`` is its full name; ``text`` says what it is and ends with the remedy."""

    annotation: str
    text: str

    def __str__(self) -> str:
        return f"{self.annotation}: {self.text}"


class AnnotationsError(PodlaneError, ValueError):
    """A Pod's annotations cannot be honoured. ``problems`` has every reason there is, never none."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(Problem(p.annotation, _shortened(p.text)) for p in problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"  - {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  - and {len(self.problems) - _SHOWN} more")
        return "\n".join([f"{len(self.problems)} problems in the Pod's annotations:", *lines])


def _shortened(text: str) -> str:
    """A text may quote a value of a quarter of a MiB: keep how it begins, and the remedy at its end."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
