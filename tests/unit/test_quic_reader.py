"""When the reader of QUIC begins and ends beside a predecessor. The queue itself is in tests/kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from test_stepaside_classifier import routing
from trio.testing import MockClock, wait_all_tasks_blocked

from datapath.errors import QueueError, RulesetError
from datapath.netfilter.ruleset import CaptureSettings, Ruleset, build_ruleset
from datapath.quic_classifier import QuicReader
from datapath.routing.cached import Routing
from datapath.stepaside.server import StepAside
from sidecar.observability.counters import Tallies
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.units import Duration

OLD = routing(("video", {"sni": "video.example"}))
NEW = routing(("video", {"sni": "film.example"}))


@dataclass
class Queue:
    """Who has it, and what became of those who came."""

    taken: bool = True
    judges: list[Judge] = field(default_factory=list)
    rerouted: trio.Event = field(default_factory=trio.Event)
    refusal: trio.Event = field(default_factory=trio.Event)

    async def has_refused(self, times: int) -> None:
        """Wait until so many more have come while somebody else had it."""
        for _ in range(times):
            self.refusal = trio.Event()
            await self.refusal.wait()

    def make(self, by: Routing, _tallies: Tallies) -> StepAside:
        return cast("StepAside", Judge(self, by))


@dataclass
class Judge:
    """A classifier's life, without packets."""

    queue: Queue
    routing: Routing
    rerouted: list[Routing] = field(default_factory=list)
    life: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        if self.queue.taken:
            self.queue.refusal.set()
            raise QueueError("another has the queue")
        self.queue.judges.append(self)
        task_status.started()
        with self.life:
            await trio.sleep_forever()

    async def follow(self, by: Routing) -> None:
        self.routing = by

    async def reroute(self) -> int:
        await trio.lowlevel.checkpoint()
        self.rerouted.append(self.routing)
        self.queue.rerouted.set()
        return 0

    async def drain(self, _grace: Duration) -> int:
        self.life.cancel()
        return 0


@asynccontextmanager
async def heir(queue: Queue) -> AsyncIterator[tuple[QuicReader, trio.Nursery]]:
    """One that has looked for the queue again and again, for longer than any grace period; and where its tasks are."""
    async with trio.open_nursery() as nursery:
        reader = QuicReader(queue.make, heir=True)
        await reader.follow(OLD, nursery)
        await queue.has_refused(2000)
        assert (reader.running, reader.problem) == (False, "")
        await reader.follow(NEW, nursery)
        yield reader, nursery
        nursery.cancel_scope.cancel()


def in_no_time(test: Callable[[], object]) -> None:
    """On a clock that jumps to the next deadline when all wait, as an heir does between two looks."""
    trio.run(test, clock=MockClock(autojump_threshold=0))


def test_an_heir_waits_for_the_queue_and_has_live_flows_follow_its_policy_once() -> None:
    async def scenario() -> None:
        queue = Queue()
        async with heir(queue) as (reader, _):
            queue.taken = False
            await queue.rerouted.wait()
            assert reader.running
            [judge] = queue.judges
            assert judge.rerouted == [NEW]
            await reader.stop()
            assert (reader.running, judge.life.cancel_called) == (False, True)

    in_no_time(scenario)


@pytest.mark.parametrize(
    ("failures", "installed", "tries"),
    [(0, "with", 1), (1, "with", 2), (2, "without", 3)],
    ids=["at once", "the second time", "without"],
)
def test_only_what_fails_twice_is_done_without(failures: int, installed: str, tries: int) -> None:
    policy = TrafficPolicy.model_validate(
        {"total": "1Gbit", "classes": [{"name": "video", "rate": "8kbit", "match": [{"sni": "video.example"}]}]}
    )
    ids = ClassIds.assign(["video"])
    rulesets = {
        name: build_ruleset(policy, ids, CaptureSettings(interface="eth0", quic=quic))
        for name, quic in (("with", True), ("without", False))
    }
    tried: list[Ruleset] = []

    def install(ruleset: Ruleset) -> None:
        tried.append(ruleset)
        if len(tried) <= failures:
            raise RulesetError("another program holds the lock")

    reader = QuicReader(Queue().make)
    assert reader.install(install, rulesets["with"], lambda: rulesets["without"]) == rulesets[installed]
    assert (tried[-1], len(tried)) == (rulesets[installed], tries)
    assert reader.available == (installed == "with")
    reader.try_again()
    assert reader.available


def test_an_heir_that_is_alone_and_has_no_queue_says_so() -> None:
    async def scenario() -> None:
        queue = Queue()
        async with heir(queue) as (reader, _):
            reader.be_alone()
            await queue.has_refused(1)
            await wait_all_tasks_blocked()
            assert reader.problem == "QUIC goes by port and network: another has the queue"

    in_no_time(scenario)


def test_who_is_told_to_end_does_not_begin_any_more() -> None:
    async def scenario() -> None:
        queue = Queue()
        async with heir(queue) as (reader, tasks):
            await reader.stop()
            queue.taken = False
            await wait_all_tasks_blocked()
            assert not tasks.child_tasks, "nobody is left who could begin"
            assert (reader.running, queue.judges) == (False, [])

    in_no_time(scenario)
