"""The agent's turns over workloads in whose policies there is a budget, with HTB trees in kernels in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from waiting import becomes

from datapath.shaping import Shaping
from node_agent.broadcast import Broadcast
from node_agent.budgets.budget_share import BudgetShare
from node_agent.budgets.sharer import BudgetSharer
from tc_core.apply.ends import PodEnd
from tc_core.compile.mark_tree import INNER_HANDLE
from tc_core.fake.kernel import FakeKernel
from tc_core.kernel import Change, Counters
from tc_core.probe.capability import ALL_FEATURES
from tc_core.stats import ClassStats
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import parse_policy

if TYPE_CHECKING:
    from node_agent.lanes import WorkloadLanes

pytestmark = pytest.mark.trio
SHARED = parse_policy("total: 100Mbit\nbudget: {node: 60Mbit}")
OTHER = parse_policy("total: 100Mbit\nbudget: {node: 10Mbit}")
ALONE = parse_policy("total: 100Mbit")
MBIT = 1_000_000


class SendingKernel(FakeKernel):
    """Sends what it is offered, as far as the total lets it."""

    def __init__(self, offered: int) -> None:
        super().__init__("eth0")
        self.offered = offered
        self.reads = 0
        self.changed: Callable[[], None] = lambda: None
        self._read_at = time.monotonic()
        self._bits = 0.0
        self._waits = 0

    @property
    def total(self) -> int:
        """Bits per second."""
        inner = self.observe("eth0").class_named(INNER_HANDLE)
        assert inner is not None
        return inner.rate.bits_per_second

    def apply(self, interface: str, change: Change) -> None:
        super().apply(interface, change)
        self.changed()

    def counters(self, interface: str) -> Counters:
        self.reads += 1
        now = time.monotonic()
        self._bits += (now - self._read_at) * min(self.offered, self.total)
        self._waits += self.offered > self.total
        self._read_at = now
        total = ClassStats(bytes=int(self._bits / 8), overlimits=self._waits)
        return {**super().counters(interface), INNER_HANDLE: total}


class Pod:
    """As far as the agent's turns look at a workload and its data plane."""

    def __init__(self, name: str, policy: TrafficPolicy, offered: int, governed_by: str = "") -> None:
        self.kernel = SendingKernel(offered)
        self.shaping: Shaping | None = Shaping(
            self.kernel, "eth0", ALL_FEATURES, replace=False, end=PodEnd(relays=False), budgets=True
        )
        self.workload = SimpleNamespace(name=name, governed_by=governed_by or "TrafficPolicy shop/web")
        self.in_force_in = (1, 2)
        self.as_wanted = True
        self.budget: BudgetShare | None = None
        self.busy = False
        self.plane = SimpleNamespace(policy=policy, rest=lambda: not self.busy, resume=lambda: None)
        self.apply(policy)

    def apply(self, policy: TrafficPolicy) -> None:
        assert self.shaping is not None
        self.shaping.begin(policy, self.shaping.ids_for(policy))
        self.shaping.finish()
        self.plane.policy = policy

    @property
    def share(self) -> float:
        """Mbit/s."""
        return self.kernel.total / MBIT


@asynccontextmanager
async def shared(pods: Iterable[Pod]) -> AsyncIterator[Broadcast]:
    running = {each.workload.name: cast("WorkloadLanes", each) for each in pods}
    moved = Broadcast()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(BudgetSharer(running, moved).run)
        yield moved
        nursery.cancel_scope.cancel()


def near(share: float, wanted: float) -> bool:
    return 0.95 * wanted <= share <= 1.05 * wanted


async def test_who_wants_it_has_it_and_each_policy_has_its_own() -> None:
    one, idle = Pod("a", SHARED, 1000 * MBIT), Pod("b", SHARED, 0)
    other = Pod("c", OTHER, 1000 * MBIT, "TrafficPolicy shop/other")
    alone = Pod("d", ALONE, 1000 * MBIT)
    async with shared([one, idle, other, alone]):
        await becomes("nearly all", lambda: near(one.share, 58))
        await becomes("all that is left", lambda: near(other.share, 10))
        assert idle.share <= 1
        assert alone.share == 100
        assert alone.budget is None
        await becomes("told", lambda: one.budget is not None and near(one.budget.share.bits_per_second / MBIT, 58))
        assert one.budget is not None
        assert (one.budget.policy, one.budget.pods) == ("TrafficPolicy shop/web", 2)
        idle.kernel.offered = 1000 * MBIT
        await becomes("half of it", lambda: near(one.share, 30) and near(idle.share, 30))


async def test_who_is_being_changed_keeps_its_share_and_the_others_share_the_rest() -> None:
    pods = one, two, three = [Pod(name, SHARED, 1000 * MBIT) for name in "abc"]
    async with shared(pods):
        await becomes("a third each", lambda: all(near(each.share, 20) for each in pods))
        one.busy = True
        two.kernel.offered = 0
        await becomes("what is left", lambda: near(three.share, 39))
        assert near(one.share, 20)
        assert sum(each.share for each in pods) <= 60


async def test_shares_that_fit_are_not_written_again() -> None:
    pods = [Pod(name, SHARED, 1000 * MBIT) for name in "ab"]
    async with shared(pods):
        await becomes("half each", lambda: all(near(each.share, 30) for each in pods))
        seen = [len(each.kernel.applied) for each in pods]
        await turns(pods[0], 5)
        assert [len(each.kernel.applied) for each in pods] == seen


async def test_nothing_is_asked_while_there_is_no_budget_and_one_that_comes_is_noticed() -> None:
    pod, other = Pod("a", ALONE, 1000 * MBIT), Pod("b", ALONE, 1000 * MBIT)
    async with shared([pod, other]) as moved:
        moved.tell()
        await wait_all_tasks_blocked()
        assert pod.kernel.reads == 0
        pod.apply(OTHER)
        moved.tell()
        await becomes("the budget", lambda: near(pod.share, 10))
        assert other.kernel.reads == 0
        pod.apply(ALONE)
        await becomes("no budget any more", lambda: pod.budget is None)
        assert pod.share == 100


async def test_what_cannot_be_lowered_is_not_given_to_others() -> None:
    pods = one, two = [Pod("a", SHARED, 1000 * MBIT), Pod("b", SHARED, 0)]
    sums: list[float] = []
    async with shared(pods):
        await becomes("nearly all", lambda: near(one.share, 58))
        for each in pods:
            each.kernel.changed = lambda: sums.append(one.share + two.share)
        one.kernel.fail_at(0)
        two.kernel.offered = 1000 * MBIT
        await becomes("half of it", lambda: near(one.share, 30) and near(two.share, 30))
    assert len(sums) >= 2
    assert max(sums) <= 60


async def turns(pod: Pod, count: int) -> None:
    """Wait for so many turns in which it is looked at."""
    reads = pod.kernel.reads + count
    await becomes("turns", lambda: pod.kernel.reads >= reads)
