"""Reading a policy that the sidecar is to put in force. One place for all who must refuse the same ones."""

from __future__ import annotations

from pathlib import Path

from tc_core.errors import PolicyError
from tc_core.policy import TrafficPolicy
from tc_core.policy_file import load_policy
from tc_core.policy_scope import beyond_sidecar
from tc_core.units import Rate


def load_sidecar_policy(path: Path | str, *, total: Rate | None = None) -> TrafficPolicy:
    """The policy in a file, as :func:`tc_core.policy_file.load_policy` reads it.

    Raises :class:`PolicyError` also for what the sidecar cannot do: what it ignored would be a limit not kept.
    """
    policy = load_policy(path, total=total)
    if problems := beyond_sidecar(policy):
        raise PolicyError(problems, str(path))
    return policy
