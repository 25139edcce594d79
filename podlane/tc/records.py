"""The history's knowledge of an interface: the policy in force, its class ids, and whether that is certain.

A state in the history is ``{"policy": document, "ids": {class: id}}``; ``None`` is an interface without classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tc_core.compile.packet_tree import lanes_of
from tc_core.handles import Handle
from tc_core.history import Standing
from tc_core.history.events import State
from tc_core.model import Observed, TrafficTree
from tc_core.probe.capability import ALL_FEATURES
from tc_core.trees import Lanes, Tree
from traffic_policy.errors import PolicyError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import dump_policy, policy_from_document


def policy_of(state: State, source: str) -> TrafficPolicy:
    """The policy of a state. Raises :class:`PolicyError`, naming ``source``, if this version cannot use it."""
    return policy_from_document(state["policy"], source=source)


def text_of(state: State | None) -> str:
    """The policy of a state as YAML text; empty without classes. An invalid policy is shown as it is."""
    if state is None:
        return ""
    import yaml

    try:
        return dump_policy(policy_of(state, ""))
    except PolicyError:
        return str(yaml.safe_dump(dict(state["policy"]), sort_keys=False, allow_unicode=True))


@dataclass(frozen=True, slots=True)
class Recorded:
    """The policy in force after the last completed change."""

    change: int
    policy: TrafficPolicy
    lanes: Lanes

    def names(self, *, arriving: bool = False) -> Mapping[Handle, str]:
        """The policy's names for handles: of sent or of received traffic."""
        if not arriving:
            return self.lanes.tree.names
        return self.lanes.ingress.tree.names if self.lanes.ingress else MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The history's knowledge of one interface; ``recorded`` is None if it has no policy for it."""

    standing: Standing = field(default_factory=lambda: Standing(None))
    recorded: Recorded | None = None


def knowledge(standing: Standing | None, interface: str) -> Knowledge:
    """Look up an interface. A recorded policy that this version cannot read counts as unknown."""
    if standing is None:
        return Knowledge()
    if standing.latest is None or standing.state is None:
        return Knowledge(standing)
    number = standing.latest.number
    try:
        policy = policy_of(standing.state, f"change {number}")
        # The kernel's default queue does not matter for names and matches.
        lanes = lanes_of(policy, interface, ALL_FEATURES, ClassIds(standing.state["ids"]))
    except PolicyError:
        return Knowledge(standing)
    return Knowledge(standing, Recorded(number, policy, lanes))


def fits(tree: Tree, observed: Observed) -> bool:
    """Whether an interface has these classes and filters. Queues are ignored: they depend on the kernel."""
    filters = {f.key: f for f in tree.filters}
    if {f.key: f for f in observed.filters} != filters:
        return False
    if isinstance(tree, TrafficTree):
        wanted = {c.handle: c for c in (tree.inner, *tree.classes)}
        return wanted.keys() == {c.handle for c in observed.classes} and all(
            wanted[c.handle].agrees_with(c) for c in observed.classes
        )
    return observed.root is not None and tree.qdiscs[0].agrees_with(observed.root)
