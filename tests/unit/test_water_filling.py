"""How a budget is shared out: what holds for any Pods, and how shares move when Pods begin, pause and stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.budgets.appetite import SeenUse, demand
from tc_core.stats import ClassStats
from traffic_policy.water_filling import Claim, beginning, settled, share_out

MBIT = 1_000_000
BUDGET = 60 * MBIT
TURN_S = 0.2
RATES = st.integers(0, 10**10)


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    return [
        Claim(draw(RATES), draw(st.integers(0, ceil)), ceil)
        for ceil in draw(st.lists(st.integers(8_000, 10**10), min_size=1, max_size=12))
    ]


BUDGETS = st.integers(8_000, 10**11)


def wants(budget: int, some: Sequence[Claim]) -> list[int]:
    """What is asked for: what a Pod begins with, at least."""
    return [min(each.ceil, max(each.demand, beginning(budget, len(some)))) for each in some]


@given(BUDGETS, claims())
def test_together_they_never_have_more_than_the_budget_and_none_more_than_its_ceil(
    budget: int, some: list[Claim]
) -> None:
    shares = share_out(budget, some)
    assert sum(shares) <= budget
    assert all(0 <= share <= each.ceil for share, each in zip(shares, some, strict=True))


@given(BUDGETS, claims())
def test_nothing_is_left_while_anybody_could_use_it(budget: int, some: list[Claim]) -> None:
    """Less than a bit for each: shares are whole numbers."""
    assert sum(share_out(budget, some)) > min(budget, sum(each.ceil for each in some)) - len(some)


@given(BUDGETS, claims())
def test_what_is_guaranteed_and_wanted_is_given_if_all_of_it_fits(budget: int, some: list[Claim]) -> None:
    asked = wants(budget, some)
    first = beginning(budget, len(some))
    least = [min(want, max(each.floor, first)) for want, each in zip(asked, some, strict=True)]
    shares = share_out(budget, some)
    if sum(least) <= budget:
        assert all(share >= low for share, low in zip(shares, least, strict=True))
    else:
        together = sum(least)
        parts = [share - low * budget / together for share, low in zip(shares, least, strict=True)]
        assert all(-1 <= part <= 0 for part in parts), "in proportion"


@given(BUDGETS, claims())
def test_who_has_less_than_it_wants_has_no_less_than_others_beyond_their_guarantees(
    budget: int, some: list[Claim]
) -> None:
    """Max-min fairness: nobody can get more but from one who has no more, or from what is guaranteed to that one."""
    asked, first = wants(budget, some), beginning(budget, len(some))
    shares = share_out(budget, some)
    lacking = [share for share, want in zip(shares, asked, strict=True) if share < want]
    if not lacking or sum(min(w, max(c.floor, first)) for w, c in zip(asked, some, strict=True)) > budget:
        return
    assert all(
        share <= max(min(lacking), min(each.floor, want), first) + 1
        for share, want, each in zip(shares, asked, some, strict=True)
    )


@given(BUDGETS, claims(), st.data())
def test_shares_that_differ_little_stay_and_the_sum_holds_all_the_same(
    budget: int, some: list[Claim], data: st.DataObject
) -> None:
    wanted = share_out(budget, some)
    present = [data.draw(RATES) for _ in wanted]
    shares = settled(budget, present, wanted)
    assert sum(shares) <= budget
    assert all(share in pair for share, pair in zip(shares, zip(present, wanted, strict=True), strict=True))
    assert settled(budget, wanted, wanted) == wanted
    near = [share - share // 60 for share in wanted]
    assert settled(budget, near, wanted) == tuple(near), "little differences move nothing"


# --- a node with senders ---------------------------------------------------------------------------------------------


@dataclass
class Sender:
    """Has ``offered`` bits per second to send at a time. What does not go waits, as TCP has it: for 50 ms at most, the
    rest is not made."""

    offered: Callable[[float], float]
    ceil: int = 1000 * MBIT
    floor: int = MBIT
    share: int = 0
    asked: int = 0
    waiting: float = 0.0
    bits: float = 0.0
    waits: int = 0
    seen: SeenUse | None = None
    sent: list[float] = field(default_factory=list)
    """Bits per second in each turn."""

    def send(self, now: float) -> None:
        self.waiting = min(self.waiting + self.offered(now) * TURN_S, self.share * (TURN_S + 0.05))
        gone = min(self.waiting, self.share * TURN_S)
        self.waiting -= gone
        self.bits += gone
        self.waits += self.waiting > 0
        self.sent.append(gone / TURN_S)

    def look(self, now: float) -> None:
        counters = ClassStats(bytes=int(self.bits / 8), overlimits=self.waits, backlog_packets=int(self.waiting > 0))
        before, self.seen = self.seen, SeenUse(now, counters)
        if before is None:
            self.asked = self.share
        else:
            self.asked = demand(before, self.seen, share=self.share, ceil=self.ceil, earlier=self.asked)


@dataclass
class NodeOfSenders:
    """All turns of a simulation. Shares never are more than the budget together."""

    senders: list[Sender]
    budget: int = BUDGET
    now: float = 0.0
    shares: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, turns: int) -> None:
        for _ in range(turns):
            for each in self.senders:
                each.send(self.now)
                each.look(self.now + TURN_S)
            self.now += TURN_S
            present = [each.share for each in self.senders]
            wanted = share_out(self.budget, [Claim(each.asked, each.floor, each.ceil) for each in self.senders])
            for each, share in zip(self.senders, settled(self.budget, present, wanted), strict=True):
                each.share = share
            self.shares.append(tuple(each.share for each in self.senders))
            assert sum(self.shares[-1]) <= self.budget

    def moves(self, turns: int) -> int:
        """How often a share has changed in so many last turns."""
        last = self.shares[-turns:]
        return sum(a != b for one, other in pairwise(last) for a, b in zip(one, other, strict=True))


def always(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def test_one_sender_has_nearly_all() -> None:
    node = NodeOfSenders([Sender(always(1000 * MBIT)), Sender(always(0)), Sender(always(0))])
    node.run(10)
    assert node.senders[0].sent[-1] >= 0.95 * BUDGET
    node.run(50)
    assert node.moves(50) == 0


def test_three_senders_have_a_third_each() -> None:
    node = NodeOfSenders([Sender(always(1000 * MBIT)) for _ in range(3)])
    node.run(10)
    assert [each.share for each in node.senders] == pytest.approx([BUDGET / 3] * 3, rel=0.05)
    assert sum(each.share for each in node.senders) > 0.97 * BUDGET
    node.run(50)
    assert node.moves(50) == 0


def test_who_wants_little_has_it_and_the_others_share_the_rest() -> None:
    little, *greedy = senders = [Sender(always(6 * MBIT)), Sender(always(1000 * MBIT)), Sender(always(1000 * MBIT))]
    node = NodeOfSenders(senders)
    node.run(15)
    assert little.sent[-1] == pytest.approx(6 * MBIT, rel=0.01)
    assert sum(each.sent[-1] for each in greedy) > 0.97 * BUDGET - 1.3 * little.sent[-1]
    node.run(50)
    assert node.moves(50) == 0


def test_guarantees_that_are_wanted_come_first() -> None:
    senders = [Sender(always(1000 * MBIT), floor=40 * MBIT), *(Sender(always(1000 * MBIT)) for _ in range(4))]
    node = NodeOfSenders(senders)
    node.run(15)
    assert senders[0].share >= 0.96 * 40 * MBIT
    assert all(each.share == pytest.approx(5 * MBIT, rel=0.05) for each in senders[1:])


def test_who_begins_has_its_part_within_a_second_and_who_stops_gives_it_away_within_one() -> None:
    node = NodeOfSenders(
        [
            Sender(lambda now: 1000 * MBIT if now < 20 else 0),
            Sender(lambda now: 1000 * MBIT if now >= 10 else 0),
        ]
    )
    node.run(50)
    assert node.senders[0].share > 0.95 * BUDGET
    node.run(5)
    assert [each.share for each in node.senders] == pytest.approx([BUDGET / 2] * 2, rel=0.05)
    node.run(45)
    node.run(5)
    assert node.senders[1].share > 0.9 * BUDGET


def test_bursts_do_not_cost_the_others_much_nor_make_them_swing() -> None:
    """Ten senders with bursts of a second and pauses of two, at random, and one that always has something to send."""
    dice = random.Random(20)

    def burst() -> list[bool]:
        found = [False]
        while len(found) < 400:
            found.append(dice.random() >= TURN_S if found[-1] else dice.random() < TURN_S / 2)
        return found

    bursts = [burst() for _ in range(10)]

    def bursting(turns: list[bool]) -> Callable[[float], float]:
        return lambda now: 30.0 * MBIT if turns[min(399, round(now / TURN_S))] else 0.0

    greedy = Sender(always(1000 * MBIT))
    node = NodeOfSenders([greedy, *(Sender(bursting(turns)) for turns in bursts)])
    node.run(400)
    used = [sum(turn) for turn in zip(*(each.sent for each in node.senders), strict=True)]
    assert max(used) <= BUDGET * 1.000001
    assert sum(used[10:]) / len(used[10:]) > 0.75 * BUDGET, "what nobody uses is lent again"
    assert min(greedy.sent[10:]) > 0.8 * BUDGET / 11, "its even part at any time"
