"""Shares out the budgets of policies among the workloads of this node, five times a second.

A share is the total of a workload's HTB tree, so the kernel keeps it, also without the agent: killed, it leaves shares
as they are, and the next one goes on from there. A workload that is being changed, or cannot be read, keeps what it
has, and the others share the rest. Who loses something is changed before who gets it: together they never have more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from daemon.log import Logger
from datapath.data_plane import DataPlane
from datapath.shaping import Shaping
from node_agent.broadcast import Broadcast
from node_agent.budgets.appetite import SeenUse, demand
from node_agent.budgets.budget_share import BudgetShare
from node_agent.lanes import WorkloadLanes
from traffic_policy.errors import PodlaneError
from traffic_policy.policy import Budget, TrafficPolicy
from traffic_policy.units import Rate
from traffic_policy.water_filling import Claim, settled, share_out

EVERY_S: Final = 0.2
"""Seconds between two turns."""

log = Logger()
log_some = Logger(spacing=60.0)


@dataclass(slots=True, eq=False)
class _Member:
    """A workload in whose policy there is a budget."""

    lanes: WorkloadLanes
    plane: DataPlane
    shaping: Shaping
    policy: str = ""
    """Which has the budget, in words."""
    budget: int = 0
    ceil: int = 0
    """The total of its own."""
    floor: int = 0
    """What is guaranteed to its classes."""
    read: TrafficPolicy | None = None
    """What these three are of."""
    seen: SeenUse | None = None
    demand: int = 0

    @property
    def share(self) -> int:
        """In bits per second, as the kernel has it."""
        share = self.shaping.share
        return min(self.ceil, share.bits_per_second if share is not None else 0)

    def follow(self, policy: TrafficPolicy, budget: Budget) -> None:
        """This is in force."""
        if policy is not self.read:
            self.read, self.budget = policy, budget.node.bits_per_second
            self.ceil = policy.total.bits_per_second
            self.floor = sum(each.rate.bits_per_second for each in policy.resolved())
        if self.lanes.as_wanted or not self.policy:  # else it still has its share of the policy before
            self.policy = self.lanes.workload.governed_by


class BudgetSharer:
    """Looks at running workloads, by name. Does nothing while no policy in force has a budget."""

    def __init__(self, running: Mapping[str, WorkloadLanes], moved: Broadcast) -> None:
        """``moved`` tells when lanes come into force or change."""
        self._running = running
        self._moved = moved
        self._known: dict[Shaping, _Member] = {}

    async def run(self) -> None:
        """Until cancelled, which leaves shares as they are."""
        while True:
            members = self._members()
            if not members:
                await self._moved.wait()
                continue
            resting = [each for each in members if each.plane.rest()]
            try:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(partial(_turn, members, resting))
            finally:
                for each in resting:
                    each.plane.resume()
            await trio.sleep(EVERY_S)

    def _members(self) -> list[_Member]:
        found: dict[Shaping, _Member] = {}
        for lanes in self._running.values():
            plane, shaping = lanes.plane, lanes.shaping
            budget = None if plane is None or lanes.in_force_in is None else plane.policy.budget
            if plane is None or shaping is None or budget is None or shaping.share is None:
                lanes.budget = None
                continue
            member = found[shaping] = self._known.get(shaping) or _Member(lanes, plane, shaping)
            member.follow(plane.policy, budget)
        self._known = found
        return list(found.values())


def _turn(members: Sequence[_Member], resting: Sequence[_Member]) -> None:
    """In a thread. Nothing else is done meanwhile to those that are ``resting``."""
    groups: dict[str, list[_Member]] = defaultdict(list)
    for each in members:
        groups[each.policy].append(each)
    free = {each for each in resting if each.shaping.can_hold}
    for group in groups.values():
        _share(group, [each for each in group if each in free])


def _share(group: Sequence[_Member], free: Sequence[_Member]) -> None:
    budget = min(each.budget for each in group)
    asking = [each for each in free if _looked_at(each)]
    rest = max(0, budget - sum(each.share for each in group if each not in asking))
    claims = [Claim(each.demand, each.floor, each.ceil) for each in asking]
    present = [each.share for each in asking]
    wanted = settled(rest, present, share_out(rest, claims))
    changed = [(then - now, then, each) for now, then, each in zip(present, wanted, asking, strict=True) if now != then]
    for _, share, each in sorted(changed, key=lambda change: change[0]):
        try:
            each.shaping.hold(Rate(share))
        except PodlaneError as error:
            log_some.warning("a share was not changed", workload=each.lanes.workload.name, error=str(error))
            break  # what it was to give is not there for the others
    _tell(group, budget)


def _looked_at(member: _Member) -> bool:
    """Note what a workload wants; whether that is known."""
    try:
        now = SeenUse(time.monotonic(), member.shaping.sent_in_all())
    except PodlaneError:
        return False
    before, member.seen = member.seen, now
    if before is None:
        member.demand = member.share  # of an earlier agent; nothing is known yet of what it wants
    else:
        member.demand = demand(before, now, share=member.share, ceil=member.ceil, earlier=member.demand)
    return True


def _tell(group: Sequence[_Member], budget: int) -> None:
    promised = sum(each.floor for each in group)
    for each in group:
        told = BudgetShare(each.policy, Rate(budget), Rate(each.share), len(group), Rate(promised))
        before, each.lanes.budget = each.lanes.budget, told
        if told.warning and (before is None or before.warning != told.warning):
            log_some.warning(told.warning, policy=each.policy)
