"""What to send so that an agent has what is desired: nothing, a change, or everything. Pure.

A message is made once for all agents that have the same.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Final

from control_plane.domain.tenant import Tenant
from fleet_api.agent_pb2 import ToAgent
from fleet_api.desired import DesiredState, FleetPolicy, message_of
from fleet_api.framing import HEADER, frame
from fleet_api.limits import MAX_TO_AGENT

_HISTORY: Final = 16
"""States that changes can be made against. Who has an older one is sent everything."""


def desired_of(tenant: Tenant) -> DesiredState:
    """The policies of a tenant that are in force, at the position of the last event that changed them."""
    policies = {}
    for name, policy in tenant.policies.items():
        if (content := policy.in_force) is not None:
            document = json.dumps(content.document, separators=(",", ":"), ensure_ascii=False)
            policies[name] = FleetPolicy(name, len(policy.revisions), document, content.selector)
    return DesiredState(tenant.revision, policies)


class Delivery:
    """What the agents of one tenant are to have, and the messages that bring them there."""

    def __init__(self) -> None:
        self._history: OrderedDict[int, tuple[DesiredState, bytes]] = OrderedDict({0: (DesiredState(), b"")})
        self._frames: dict[int, bytes] = {}
        self.state = DesiredState()
        self.hash = self.state.hash

    @property
    def revision(self) -> int:
        """That of what is desired."""
        return self.state.revision

    def advance(self, state: DesiredState) -> bool:
        """Desire something else from now on. False: it does not fit into a message, and what was desired stays."""
        if len(_framed(state, None)) > MAX_TO_AGENT + HEADER:
            return False
        self.state, self.hash = state, state.hash
        self._history[state.revision] = state, self.hash
        while len(self._history) > _HISTORY:
            self._history.popitem(last=False)
        self._frames.clear()
        return True

    def hash_at(self, revision: int) -> bytes | None:
        """The hash of a revision; None: it is not known any more."""
        found = self._history.get(revision)
        return found[1] if found else None

    def has(self, revision: int, hash: bytes) -> bool:
        """Whether who has this has what is desired."""
        return revision == self.revision and (hash == self.hash or not revision)

    def message(self, revision: int, hash: bytes) -> bytes:
        """What brings who has this to what is desired: a change, or everything."""
        base = self._history.get(revision) if revision else None
        if base is None or base[1] != hash:
            return self.everything
        return self._frame(revision, base[0])

    @property
    def everything(self) -> bytes:
        """What brings anybody there."""
        return self._frame(0, None)

    def _frame(self, revision: int, base: DesiredState | None) -> bytes:
        made = self._frames.get(revision)
        if made is None:
            made = self._frames[revision] = _framed(self.state, base)
        return made


def _framed(state: DesiredState, base: DesiredState | None) -> bytes:
    return frame(ToAgent(desired=message_of(state, base)).SerializeToString())
