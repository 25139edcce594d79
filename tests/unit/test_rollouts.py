"""How a revision reaches agents in steps, and how it is taken back."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.domain import commands as c
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.decisions import decide
from control_plane.domain.errors import InvalidError, RefusedError, StateConflictError, UnknownSubjectError
from control_plane.domain.rollout import (
    Gates,
    OnNewRevision,
    PrometheusGate,
    Rollout,
    RolloutPlan,
    RolloutState,
    Stage,
    place_of,
)
from control_plane.domain.rollout_gates import (
    GoOn,
    QueryAnswer,
    SeenOfRollout,
    StayAt,
    TakeBack,
    Traffic,
    Verdict,
    judge,
)
from control_plane.domain.tenant import Policy, Tenant

NOW = 1_000
DIGEST = "d" * 64
STEPS = RolloutPlan((Stage(count=1), Stage(percent=10), Stage(labels={"zone": "a"}), Stage(percent=50)))


class Shop:
    """A tenant with a hundred agents in the cluster east."""

    def __init__(self, agents: int = 100) -> None:
        self.tenant = Tenant("shop")
        self.do(c.CreateTenant(), c.AddCluster("east"))
        for i in range(agents):
            self.do(
                c.IssueJoinToken("east", f"t{i}", DIGEST, NOW + 1), c.EnrolAgent("east", f"n{i}", f"t{i}", DIGEST, "1f")
            )

    def do(self, *commands: c.Command) -> None:
        for command in commands:
            for event in decide(self.tenant, command, NOW):
                self.tenant.apply(event)

    def publish(self, total: int, plan: RolloutPlan | None = None) -> None:
        content = CheckedPolicy.from_document({"total": f"{total}Mbit", "classes": []})
        self.do(c.DraftPolicy("web", content), c.PublishPolicy("web", plan))

    @property
    def policy(self) -> Policy:
        return self.tenant.policies["web"]

    def having(self, revision: int, **labels: str) -> int:
        """How many agents are to have this revision."""
        return sum(self.policy.revision_for(agent, labels) == revision for agent in self.tenant.agents)


def steps(revision: int, to: int) -> list[c.Command]:
    """One step after the other, up to the one with this index."""
    return [c.AdvanceRollout("web", revision, stage) for stage in range(1, to + 1)]


@pytest.fixture
def shop() -> Shop:
    made = Shop()
    made.publish(10)
    return made


def test_each_step_reaches_more_agents_and_the_last_all(shop: Shop) -> None:
    shop.publish(20, STEPS)
    reached = [shop.having(2)]
    for stage in range(1, 5):
        shop.do(c.AdvanceRollout("web", 2, stage))
        reached.append(shop.having(2))
    assert reached[0] == 1
    assert 3 <= reached[1] <= 20
    assert reached[2] == reached[1], "no node has the label"
    assert 35 <= reached[3] <= 65
    assert reached[4] == 100
    assert shop.policy.rollout is not None
    assert shop.policy.rollout.state is RolloutState.RUNNING, "its last step is still watched"
    shop.do(c.AdvanceRollout("web", 2, 5))
    assert shop.policy.rollout.state is RolloutState.DONE


def test_nodes_with_the_labels_are_reached_by_their_step(shop: Shop) -> None:
    shop.publish(20, STEPS)
    shop.do(*steps(2, 2))
    assert shop.having(2, zone="a", arch="amd64") == 100
    assert shop.having(2, zone="b") < 25


def test_one_agent_is_one_of_the_first_percent_and_the_order_is_another_each_time() -> None:
    agents = [f"east/n{i}" for i in range(1000)]
    first = sorted(agents, key=lambda agent: place_of("web", 2, agent))
    assert first != sorted(agents, key=lambda agent: place_of("web", 3, agent))
    shop = Shop(300)
    shop.publish(10, RolloutPlan((Stage(count=1), Stage(percent=5))))
    assert shop.policy.rollout is not None
    (only,) = shop.policy.rollout.members
    shop.do(c.AdvanceRollout("web", 1, 1))
    assert place_of("web", 1, only) < 0.05


def test_taken_back_all_agents_have_what_was_before(shop: Shop) -> None:
    shop.publish(20, STEPS)
    shop.do(*steps(2, 3), c.TakeBackRollout("web", "3 agents failed", 2))
    assert shop.having(1) == 100
    assert shop.policy.rollout is not None
    assert (shop.policy.rollout.state, shop.policy.rollout.reason) == (RolloutState.TAKEN_BACK, "3 agents failed")
    shop.do(c.TakeBackRollout("web", "again"), c.AdvanceRollout("web", 2, 4))
    assert shop.having(1) == 100
    shop.publish(30)
    assert shop.having(3) == 100


def test_the_first_revision_taken_back_leaves_nothing_in_force() -> None:
    shop = Shop(3)
    shop.publish(10, STEPS)
    assert (shop.having(1), shop.having(0)) == (1, 2)
    shop.do(c.TakeBackRollout("web"))
    assert shop.having(0) == 3
    assert shop.policy.in_force is None


def test_after_a_removal_a_rollout_begins_from_nothing(shop: Shop) -> None:
    shop.do(c.RemovePolicy("web"))
    assert shop.having(0) == 100
    shop.publish(20, STEPS)
    assert (shop.having(2), shop.having(0)) == (1, 99)
    shop.do(c.RemovePolicy("web"))
    assert shop.having(0) == 100


def test_another_revision_meanwhile_supersedes_it(shop: Shop) -> None:
    shop.publish(20, STEPS)
    shop.do(*steps(2, 3))
    shop.publish(30, STEPS)
    assert (shop.having(1), shop.having(2), shop.having(3)) == (99, 0, 1)
    shop.do(c.AdvanceRollout("web", 2, 4))
    assert shop.having(2) == 0, "the driver of the first comes late"
    shop.do(c.TakeBackRollout("web"))
    assert shop.having(1) == 100, "the second has never been in force for all"


def test_or_is_refused_where_the_plan_says_so(shop: Shop) -> None:
    shop.publish(20, RolloutPlan((Stage(count=1),), on_new_revision=OnNewRevision.REFUSE))
    with pytest.raises(StateConflictError, match="The rollout of revision 2 of web has not ended"):
        shop.publish(30)


def test_paused_it_reaches_nobody_else(shop: Shop) -> None:
    shop.publish(20, STEPS)
    shop.do(c.PauseRollout("web", "lunch"), c.PauseRollout("web", "again"))
    with pytest.raises(StateConflictError, match="paused"):
        shop.do(c.AdvanceRollout("web", 2, 1))
    assert shop.having(2) == 1
    shop.do(c.ResumeRollout("web"), c.AdvanceRollout("web", 2, 1))
    assert shop.having(2) > 1


def test_what_has_ended_or_never_was_cannot_be_paused(shop: Shop) -> None:
    with pytest.raises(UnknownSubjectError, match="has no rollout"):
        shop.do(c.PauseRollout("web"))
    shop.publish(20, RolloutPlan((Stage(percent=100),)))
    shop.do(c.AdvanceRollout("web", 2, 1))
    with pytest.raises(StateConflictError, match="has ended: done"):
        shop.do(c.TakeBackRollout("web"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": ()}, "1 to 20 stages"),
        ({"stages": (Stage(),)}, "exactly one of count, percent and labels"),
        ({"stages": (Stage(count=1, percent=2),)}, "exactly one"),
        ({"stages": (Stage(count=0),)}, "count beyond 1 to 1000"),
        ({"stages": (Stage(percent=101),)}, "percentage beyond 0 to 100"),
        ({"stages": (Stage(labels={}),)}, "no labels"),
        ({"stages": (Stage(percent=50), Stage(percent=10))}, "fewer agents than one before"),
        ({"soak": -1}, "A soak takes"),
        ({"gates": Gates(failed=-1)}, "limit is out of range"),
        ({"gates": Gates(away=2)}, "limit is out of range"),
        ({"gates": Gates(throttled=0.5)}, "factors against before"),
        ({"gates": Gates(prometheus=(PrometheusGate("x" * 1001, 1),))}, "too long"),
    ],
)
def test_plans_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        RolloutPlan(**{"stages": (Stage(count=1),), **wrong})


def test_labels_of_a_step_are_labels(shop: Shop) -> None:
    with pytest.raises(RefusedError, match="is not a label"):
        shop.publish(20, RolloutPlan((Stage(labels={"not a label": ""}),)))


def test_a_plan_is_what_was_stored_of_it() -> None:
    plan = RolloutPlan(
        (Stage(count=2), Stage(labels={"zone": "a"}), Stage(percent=12.5)),
        5,
        Gates(1, 0.5, 1.5, None, (PrometheusGate("sum(up)", 3),)),
        OnNewRevision.REFUSE,
    )
    assert RolloutPlan.from_document(plan.to_document()) == plan
    assert [str(stage) for stage in plan.stages] == ["2 agents", "zone=a", "12.5 %", "100 %"]


LOOSE = Gates(failed=1, away=0.5, dropped=2, throttled=1.5, prometheus=(PrometheusGate("errors", 5),))
BEFORE = Traffic(100_000, dropped=1_000, throttled=10_000)
GATE = LOOSE.prometheus[0]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (SeenOfRollout(), StayAt("it has been good for 0 of 60 s")),
        (SeenOfRollout(good_for=60), GoOn()),
        (SeenOfRollout(reached=9, having=7), StayAt("2 of 9 agents have not said yet that they have it")),
        (SeenOfRollout(reached=9, having=7, away=2, good_for=61.5), GoOn()),
        (SeenOfRollout(reached=9, having=4, away=5, lost=4, good_for=60), StayAt("5 of 9 agents are away, 50% may be")),
        (SeenOfRollout(reached=9, having=4, away=5, lost=5), TakeBack("5 of 9 agents have gone away since, 50% may")),
        (SeenOfRollout(reached=9, having=9, failures=[("east/n1", "no tc")], good_for=60), GoOn()),
        (
            SeenOfRollout(reached=9, having=9, failures=[("east/n1", "no tc"), ("east/n2", "no")]),
            TakeBack("2 of 9 agents failed, 1 may. east/n1: no tc; east/n2: no"),
        ),
        (SeenOfRollout(before=BEFORE, now=Traffic(999, dropped=999), good_for=60), GoOn()),
        (SeenOfRollout(before=BEFORE, now=Traffic(1000, dropped=20, throttled=150), good_for=60), GoOn()),
        (
            SeenOfRollout(before=BEFORE, now=Traffic(1000, dropped=21)),
            TakeBack("2.1% of packets were dropped, 1.0% before"),
        ),
        (
            SeenOfRollout(before=BEFORE, now=Traffic(1000, 0, 151)),
            TakeBack("15.1% of packets had to wait, 10.0% before"),
        ),
        (SeenOfRollout(now=Traffic(1000, 999, 999), good_for=60), GoOn()),
        (SeenOfRollout(before=Traffic(1000), now=Traffic(1000, 1, 1), good_for=60), GoOn()),
        (
            SeenOfRollout(before=Traffic(1000), now=Traffic(1000, 0, 2)),
            TakeBack("0.2% of packets had to wait, 0.0% before"),
        ),
        (SeenOfRollout(answers=[QueryAnswer(GATE, 5.0)], good_for=60), GoOn()),
        (SeenOfRollout(answers=[QueryAnswer(GATE)], good_for=60), GoOn()),
        (SeenOfRollout(answers=[QueryAnswer(GATE, 5.1)]), TakeBack("'errors' is 5.1, more than 5")),
        (SeenOfRollout(answers=[QueryAnswer(GATE, float("nan"))]), TakeBack("'errors' is nan, more than 5")),
        (
            SeenOfRollout(answers=[QueryAnswer(GATE, None, "refused")], good_for=60),
            StayAt("'errors' cannot be asked: refused"),
        ),
    ],
)
def test_what_is_seen_decides(seen: SeenOfRollout, verdict: Verdict) -> None:
    assert judge(Rollout(2, 1, RolloutPlan((Stage(percent=100),), 60, LOOSE), NOW), seen) == verdict
