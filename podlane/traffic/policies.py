"""Where a policy comes from: a file, standard input, or a profile."""

from __future__ import annotations

import sys
from typing import Final

from tc_core.errors import PolicyError, Problem
from tc_core.policy import TrafficPolicy
from tc_core.policy_file import load_policy, parse_policy
from tc_core.policy_scope import beyond_packets
from tc_core.profiles import profile_named
from tc_core.units import Rate

STANDARD_INPUT: Final = "-"


def read_policy(file: str | None, profile: str | None, total: Rate | None) -> TrafficPolicy:
    """The policy in ``file`` (``-`` is standard input), or a profile for a total.

    Raises :class:`PolicyError`, also for a policy that asks for more than packets can tell.
    """
    if profile is not None:
        source, policy = f"profile {profile}", profile_named(profile).policy(total)
    elif file == STANDARD_INPUT:
        source = "standard input"
        policy = parse_policy(_standard_input(source), source=source, total=total)
    else:
        source = file or ""
        policy = load_policy(source, total=total)
    if problems := beyond_packets(policy):
        raise PolicyError(problems, source)
    return policy


def _standard_input(source: str) -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError([Problem("", f"Not UTF-8 text (byte {error.start}).", "Save it as UTF-8.")], source) from None
