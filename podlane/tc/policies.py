"""The source of a policy: a file, standard input, or a profile."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from traffic_policy.errors import PolicyError, Problem

if TYPE_CHECKING:
    from traffic_policy.policy import TrafficPolicy
    from traffic_policy.units import Rate

STANDARD_INPUT: Final = "-"


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A policy file (``-`` is standard input), or a profile: one of the two. ``total`` overrides that of the policy."""

    file: str | None
    profile: str | None
    total: Rate | None

    def __str__(self) -> str:
        if self.profile is not None:
            return f"profile {self.profile}"
        return "standard input" if self.file == STANDARD_INPUT else str(self.file)

    def read(self) -> TrafficPolicy:
        """The policy. Raises :class:`PolicyError`, also for one that packets alone cannot satisfy."""
        from traffic_policy.policy_file import load_policy, parse_policy
        from traffic_policy.profiles import profile_named
        from traffic_policy.scope import beyond_packets

        source = str(self)
        if self.profile is not None:
            policy = profile_named(self.profile).policy(self.total)
        elif self.file == STANDARD_INPUT:
            policy = parse_policy(_standard_input(source), source=source, total=self.total)
        else:
            policy = load_policy(source, total=self.total)
        if problems := beyond_packets(policy):
            raise PolicyError(problems, source)
        return policy


def _standard_input(source: str) -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError([Problem("", f"Not UTF-8 text (byte {error.start}).", "Save it as UTF-8.")], source) from None
