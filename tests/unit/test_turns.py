"""Turns of the event loop: one in each pass, in order, and charged to whom they are for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from daemon.turns import LoopTurns

CROWD = 50


@asynccontextmanager
async def giving(turns: LoopTurns) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as keepers:
        keepers.start_soon(turns.run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                yield nursery
        keepers.cancel_scope.cancel()


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.trio
async def test_who_comes_first_does_not_wait_behind_a_crowd() -> None:
    turns, had = LoopTurns(), list[str]()

    async def ask(client: str) -> None:
        share = turns.share(client)
        await share.turn()
        had.append(client)

    async with giving(turns) as nursery:
        for _ in range(CROWD):
            nursery.start_soon(ask, "crowd")
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        before = len(had)
        assert 0 < before <= 6  # a turn in each pass
        nursery.start_soon(ask, "honest")
    assert len(had) == CROWD + 1
    # Two passes until it asks; in each, and in the one in which it gets its turn, the crowd has one.
    assert had.index("honest") <= before + 5


@pytest.mark.trio
async def test_what_a_task_and_its_children_do_is_charged_to_their_share() -> None:
    turns = LoopTurns()
    spent: dict[str, float] = {}

    async def work(client: str, seconds: float) -> None:
        share = turns.share(client)
        async with trio.open_nursery() as children:
            for _ in range(2):
                children.start_soon(trio.to_thread.run_sync, time.thread_time)  # not of this thread
                children.start_soon(busy, seconds)
        spent[client] = share.spent
        share.settle(useful=client == "good")
        assert share.spent == 0

    async def busy(seconds: float) -> None:
        burn(seconds)
        await trio.lowlevel.checkpoint()
        burn(seconds)

    async with giving(turns) as nursery:
        nursery.start_soon(work, "good", 0.02)
        nursery.start_soon(work, "bad", 0.01)
        burn(0.05)  # is nobody's
    assert 0.08 <= spent["good"] < 0.12
    assert 0.04 <= spent["bad"] < 0.08
    assert turns.order.client("good").proven
    assert not turns.order.client("bad").proven
    assert 0.02 <= turns.longest < 0.05


@pytest.mark.trio
async def test_who_leaves_has_no_turn_and_nobody_waits_for_it() -> None:
    turns, waits = LoopTurns(waited=lambda proven, seconds: waits.append((proven, seconds))), list[tuple[bool, float]]()
    had: list[int] = []

    async def ask(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await turns.share("crowd").turn()
            had.append(number)

    async with giving(turns) as nursery:
        scopes = [trio.CancelScope() for _ in range(10)]
        for number, scope in enumerate(scopes):
            nursery.start_soon(ask, number, scope)
        await trio.lowlevel.checkpoint()
        for scope in scopes[::2]:
            scope.cancel()
    assert set(had) >= {1, 3, 5, 7, 9}
    assert len(waits) == len(had) < 10
    assert all(not proven and seconds >= 0 for proven, seconds in waits)


@pytest.mark.trio
async def test_two_servers_charge_their_own() -> None:
    one, other = LoopTurns(), LoopTurns()

    async def work(turns: LoopTurns, seconds: float) -> None:
        share = turns.share("a")
        burn(seconds)
        await trio.lowlevel.checkpoint()
        assert seconds <= share.spent < seconds + 0.02

    async with giving(one), giving(other) as nursery:
        nursery.start_soon(work, one, 0.03)
        nursery.start_soon(work, other, 0.01)
    assert one.order.client("a").due == pytest.approx(0.03, abs=0.015)
    assert other.order.client("a").due == pytest.approx(0.01, abs=0.015)
