"""What is to be in force on a node: policies by name, their hash, and the changes between two of them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet_api.agent_pb2 import Desired, Policy


class OtherBaseError(Exception):
    """A change is against something else than what is there, or does not lead where it says. All must be sent."""


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """A policy for the workloads that have all labels of ``selector``, on nodes with all labels of ``nodes``.
    ``document`` is JSON."""

    name: str
    revision: int
    document: str
    selector: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Policies by name, at a revision; 0: nothing was ever said."""

    revision: int = 0
    policies: Mapping[str, FleetPolicy] = field(default_factory=dict)

    @property
    def hash(self) -> bytes:
        """SHA-256 over the JSON of the policies, sorted, without spaces.

        The revision has no part in it, nor have the labels of nodes, which agents before 0.3 do not know: a policy's
        revision stands for them.
        """
        said = [
            [p.name, p.revision, p.document, dict(sorted(p.selector.items()))]
            for p in sorted(self.policies.values(), key=lambda each: each.name)
        ]
        return hashlib.sha256(json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()).digest()


def message_of(state: DesiredState, base: DesiredState | None = None) -> Desired:
    """What tells an agent that has ``base``, or anything, to have ``state``."""
    before = base.policies if base is not None else {}
    changed = [policy for name, policy in state.policies.items() if before.get(name) != policy]
    return Desired(
        revision=state.revision,
        hash=state.hash,
        base=base.revision if base is not None else 0,
        policies=[
            Policy(
                name=p.name, revision=p.revision, document=p.document, selector=dict(p.selector), nodes=dict(p.nodes)
            )
            for p in changed
        ],
        removed=sorted(before.keys() - state.policies.keys()),
    )


def applied(there: DesiredState, change: Desired) -> DesiredState:
    """What is to be in force after a message. Raises :class:`OtherBaseError`."""
    if change.base and change.base != there.revision:
        raise OtherBaseError(f"The change is against revision {change.base}; {there.revision} is there.")
    policies = {
        p.name: FleetPolicy(p.name, p.revision, p.document, dict(p.selector), dict(p.nodes)) for p in change.policies
    }
    kept = {name: p for name, p in there.policies.items() if name not in change.removed} if change.base else {}
    state = DesiredState(change.revision, {**kept, **policies})
    if state.hash != change.hash:
        raise OtherBaseError(f"What there is after revision {change.revision} has another hash than it says.")
    return state
