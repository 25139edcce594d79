"""A policy that agents can put in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traffic_policy.errors import PolicyError
from traffic_policy.policy_file import policy_from_document
from traffic_policy.scope import beyond_agent


@dataclass(frozen=True, slots=True)
class CheckedPolicy:
    """Its document in the normal form. Made before a command is decided, since checking a long one takes seconds."""

    document: Mapping[str, Any]

    @classmethod
    def from_document(cls, document: object) -> CheckedPolicy:
        """Raises :class:`~traffic_policy.errors.PolicyError` with every problem there is."""
        policy = policy_from_document(document)
        if problems := beyond_agent(policy):
            raise PolicyError(problems)
        return cls(policy.to_document())
