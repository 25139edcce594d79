"""What to send so that an agent has what is desired: nothing, a change, or everything. Pure.

A message is made once for all agents that have the same.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from control_plane.domain.tenant import Policy, Tenant
from fleet_api.agent_pb2 import ToAgent
from fleet_api.desired import DesiredState, FleetPolicy, message_of
from fleet_api.framing import HEADER, frame
from fleet_api.limits import MAX_TO_AGENT

_HISTORY: Final = 256
"""States that changes can be made against. Who has an older one is sent everything."""
_MOST_TARGETS: Final = 256
"""Remembered: agents choose their labels, and so which policies they have."""
_MOST_FRAMES: Final = 64

Variant = tuple[int, ...]
"""The revisions of the policies that not all agents have."""
Told = tuple[int, bytes]
"""A revision and the hash of what there is at it."""


@dataclass(frozen=True, slots=True)
class Target:
    """What some agents are to have. A revision has a target for each variant."""

    state: DesiredState
    hash: bytes

    @property
    def told(self) -> Told:
        """What who has it can say."""
        return self.state.revision, self.hash

    def had(self, told: Told) -> bool:
        """Whether who has this has it. Before the first revision there is nothing to have."""
        return told[0] == self.state.revision and (told[1] == self.hash or not told[0])


def desired_of(tenant: Tenant, variant: Mapping[str, int] | None = None) -> DesiredState:
    """The policies of a tenant, at the position of the last event that changed them.

    ``variant`` are revisions of policies that not all agents have; by default the newest.
    """
    policies = {}
    for name, policy in tenant.policies.items():
        number = policy.revision if variant is None else variant.get(name, policy.revision)
        if number:
            policies[name] = _fleet_policy(policy, number)
    return DesiredState(tenant.revision, policies)


def _fleet_policy(policy: Policy, number: int) -> FleetPolicy:
    content = policy.revisions[number - 1]
    document = json.dumps(content.document, separators=(",", ":"), ensure_ascii=False)
    return FleetPolicy(policy.name, number, document, content.selector, content.nodes)


class Delivery:
    """What the agents of one tenant are to have, and the messages that bring them there."""

    def __init__(self, tenant: Tenant) -> None:
        """The tenant as it is when :meth:`advance` is called, and until it is called again."""
        self._tenant = tenant
        self._varying: tuple[Policy, ...] = ()
        self._nothing = DesiredState()
        self._targets: OrderedDict[Variant, Target] = OrderedDict()
        self._newest = Target(self._nothing, self._nothing.hash)
        self._history: OrderedDict[Told, DesiredState] = OrderedDict({(0, b""): self._nothing})
        self._frames: OrderedDict[tuple[Told, Told | None], bytes] = OrderedDict()

    @property
    def revision(self) -> int:
        """That of what is desired."""
        return self._newest.state.revision

    def advance(self) -> bool:
        """Desire from now on what the tenant says. False: it does not fit into a message, and nothing changes."""
        desired = desired_of(self._tenant)
        if len(_framed(desired, None)) > MAX_TO_AGENT + HEADER:
            return False
        self._newest = Target(desired, desired.hash)
        policies = self._tenant.policies.values()
        self._varying = tuple(each for each in policies if each.varies)
        self._targets.clear()
        self._frames.clear()
        return True

    def target(self, agent: str, labels: Mapping[str, str]) -> Target:
        """What an agent (CLUSTER/NODE, which says these labels of its node) is to have."""
        if not self._varying:
            return self._remembered(self._newest)
        labels = self._tenant.labels_at(agent, labels)
        variant = tuple(policy.revision_for(agent, labels) for policy in self._varying)
        found = self._targets.get(variant)
        if found is None:
            desired = self._varied(variant)
            found = self._targets[variant] = Target(desired, desired.hash)
            _forget_beyond(self._targets, _MOST_TARGETS)
        return self._remembered(found)

    def _varied(self, variant: Variant) -> DesiredState:
        """The newest state, changed as a variant has it. Policies are shared: there may be hundreds of variants."""
        policies = dict(self._newest.state.policies)
        for policy, number in zip(self._varying, variant, strict=True):
            if not number:
                policies.pop(policy.name, None)
            elif number != policy.revision:
                policies[policy.name] = _fleet_policy(policy, number)
        return DesiredState(self._tenant.revision, policies)

    def _remembered(self, target: Target) -> Target:
        if target.told not in self._history:
            self._history[target.told] = target.state
            _forget_beyond(self._history, _HISTORY)
        return target

    def message(self, target: Target, told: Told) -> bytes:
        """What brings who has been told this to a target: a change, or everything."""
        base = self._history.get(told) if told[0] else None
        key = (target.told, told if base is not None else None)
        made = self._frames.get(key)
        if made is None:
            made = self._frames[key] = _framed(target.state, base)
            _forget_beyond(self._frames, _MOST_FRAMES)
        return made


def _forget_beyond(known: OrderedDict[Any, Any], most: int) -> None:
    while len(known) > most:
        known.popitem(last=False)


def _framed(state: DesiredState, base: DesiredState | None) -> bytes:
    return frame(ToAgent(desired=message_of(state, base)).SerializeToString())
