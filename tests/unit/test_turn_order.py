"""The order of turns: nobody is starved, shares are equal by what turns cost, and good clients come before others."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.turn_order import _CLIENTS, PROVEN_SHARE, TurnClient, TurnOrder

COSTS = st.floats(0.001, 0.01)
MOST = 0.01
FEW = settings(max_examples=20)


class World:
    """Clients that always wait, with what each turn of theirs costs; ``good`` is the part that has a good answer."""

    def __init__(self) -> None:
        self.order: TurnOrder[str] = TurnOrder()
        self.costs: dict[str, float] = {}
        self.good: dict[str, float] = {}
        self.had: defaultdict[str, float] = defaultdict(float)

    def enter(self, name: str, cost: float, good: float = 0.0, credit: float = 0.0) -> None:
        self.costs[name], self.good[name] = cost, good
        self.order.add(self.order.client(name, credit=credit), name)

    def turn(self, *, again: bool = True) -> str:
        name = self.order.next()
        cost, client = self.costs[name], self.order.client(name)
        self.order.charge(client, cost)
        self.order.settle(client, cost, useful=bool(self.good[name]))
        self.had[name] += cost
        if again:
            self.order.add(client, name)
        return name

    def run(self, seconds: float) -> None:
        end = sum(self.had.values()) + seconds
        while sum(self.had.values()) < end:
            self.turn()


@FEW
@given(st.lists(COSTS, min_size=2, max_size=20), st.sampled_from([0.0, 1.0]))
def test_those_who_wait_get_equal_shares_by_what_turns_cost(costs: list[float], good: float) -> None:
    world = World()
    for number, cost in enumerate(costs):
        world.enter(str(number), cost, good, credit=good)
    world.run(10 * MOST * len(costs))
    assert max(world.had.values()) - min(world.had[str(n)] for n in range(len(costs))) <= 2 * MOST


@FEW
@given(st.integers(1, 50), COSTS, COSTS)
def test_however_many_cost_much_good_clients_have_most_and_the_others_some(bad: int, cheap: float, dear: float) -> None:
    world = World()
    world.enter("good", cheap, 1.0, credit=0.1)
    for number in range(bad):
        world.enter(f"bad {number}", dear)
    world.run(200 * MOST)
    whole = sum(world.had.values())
    wanted = whole * PROVEN_SHARE / (PROVEN_SHARE + 1)
    assert world.had["good"] == pytest.approx(wanted, abs=10 * MOST)


@FEW
@given(st.integers(1, 50), st.integers(1, 300), COSTS)
def test_a_good_client_that_asks_now_and_then_is_next(bad: int, before: int, dear: float) -> None:
    world = World()
    good = world.order.client("good", credit=0.1)
    for number in range(bad):
        world.enter(f"bad {number}", dear)
    for _ in range(3):
        for _ in range(before):
            world.turn()
        world.order.add(good, "good")
        assert world.order.next() == "good"
        world.order.charge(good, 0.001)
        world.order.settle(good, 0.001, useful=True)


@FEW
@given(st.integers(1, 50), st.integers(1, 300))
def test_a_new_client_comes_before_those_that_have_cost_much(bad: int, before: int) -> None:
    world = World()
    for number in range(bad):
        world.enter(f"bad {number}", 0.003)
    for _ in range(before):
        world.turn()
    world.enter("new", 0.001)
    assert "new" in [world.turn() for _ in range(bad + 1)]


def test_what_a_client_did_not_use_is_not_saved_up() -> None:
    world = World()
    world.enter("busy", 0.001)
    world.run(10)
    world.enter("rested", 0.001)
    world.run(1)
    assert world.had["busy"] - 10 == pytest.approx(0.5, abs=0.01)


def test_standing_is_what_most_of_the_time_went_into() -> None:
    order: TurnOrder[str] = TurnOrder()
    client = order.client("a")
    assert not client.proven
    for good in (True, False, True):
        for _ in range(300):
            order.settle(client, 0.01, useful=good)
        assert client.proven is good


def test_without_good_answers_nobody_is_ever_proven() -> None:
    order: TurnOrder[str] = TurnOrder()
    assert not order.client("a").proven
    order.settle(order.client("a"), 1.0, useful=False)
    assert not order.client("a").proven


def test_what_has_not_come_to_an_end_does_not_count_for_the_standing() -> None:
    order: TurnOrder[str] = TurnOrder()
    client = order.client("a")
    order.settle(client, 0.001, useful=True)
    order.charge(client, 10.0)
    assert client.proven


def test_of_one_client_the_lowest_rank_is_next_and_then_who_came_first() -> None:
    order: TurnOrder[str] = TurnOrder()
    client = order.client("a")
    for name, rank in (("late", 3.0), ("first", 1.0), ("second", 1.0), ("middle", 2.0)):
        order.add(client, name, rank)
    assert [order.next() for _ in range(4)] == ["first", "second", "middle", "late"]


@FEW
@given(st.randoms(use_true_random=False))
def test_each_that_waits_has_one_turn_unless_it_leaves(chance: random.Random) -> None:
    order: TurnOrder[int] = TurnOrder()
    clients = [order.client(str(n)) for n in range(5)]
    waiting: dict[int, TurnClient] = {}
    for number in range(500):
        client = chance.choice(clients)
        match chance.randrange(5):
            case 0 | 1:
                order.add(client, number)
                waiting[number] = client
            case 2 if waiting:
                gone = chance.choice(list(waiting))
                assert order.remove(waiting.pop(gone), gone)
                assert not order.remove(client, gone)
            case 3 if waiting:
                del waiting[order.next()]
            case _:
                order.charge(client, chance.random() / 100)
                order.settle(client, chance.random() / 100, useful=chance.random() < 0.5)
        assert bool(order) == bool(waiting)
    while order:
        del waiting[order.next()]
    assert not waiting


def test_clients_that_are_remembered_are_bounded_and_the_good_ones_longest() -> None:
    order: TurnOrder[str] = TurnOrder()
    good, waits = order.client("good", credit=0.1), order.client("waits")
    order.add(waits, "waits")
    for number in range(2 * _CLIENTS):
        order.client(str(number))
    assert len(order._clients) <= _CLIENTS
    assert order.client("good") is good
    assert order.client("waits") is waits
    for number in range(2 * _CLIENTS):
        order.client(f"too good to be true {number}", credit=0.1)
    assert len(order._clients) <= _CLIENTS
    assert order.next() == "waits"
