"""The table of states, deadlines, pipes: the parts, alone."""

from __future__ import annotations

import fcntl
import math
import os
from itertools import product

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sidecar.transport.loop import EventLoop
from sidecar.transport.pipes import SMALLEST_USEFUL, PipePool
from sidecar.transport.states import TRANSITIONS, ConnectionEvent, ConnectionState, StateError, next_state
from sidecar.transport.timers import AT_ONCE, Timers


def test_every_state_is_reached_from_the_first_and_reaches_the_last() -> None:
    steps = {(a, b) for (a, _), b in TRANSITIONS.items()}

    def closure(start: ConnectionState, edges: set[tuple[ConnectionState, ConnectionState]]) -> set[ConnectionState]:
        seen = {start}
        while more := {b for a, b in edges if a in seen} - seen:
            seen |= more
        return seen

    assert closure(ConnectionState.DETECTING, steps) == set(ConnectionState)
    assert closure(ConnectionState.CLOSED, {(b, a) for a, b in steps}) == set(ConnectionState)


@pytest.mark.parametrize("event", ConnectionEvent, ids=lambda e: e.name)
def test_nothing_happens_after_the_end(event: ConnectionEvent) -> None:
    with pytest.raises(StateError, match=f"CLOSED cannot have {event.name}"):
        next_state(ConnectionState.CLOSED, event)


@pytest.mark.parametrize("first", [ConnectionEvent.UP_FINISHED, ConnectionEvent.UP_BROKEN], ids=lambda e: e.name)
def test_a_direction_ends_once(first: ConnectionEvent) -> None:
    after = next_state(ConnectionState.RELAYING, first)
    for again in (ConnectionEvent.UP_FINISHED, ConnectionEvent.UP_BROKEN):
        with pytest.raises(StateError):
            next_state(after, again)


def test_only_both_ends_orderly_close_without_a_reset() -> None:
    """Every way from RELAYING to CLOSED in which something broke goes through LINGERING, or both directions broke."""
    for a, b in product(
        (ConnectionEvent.UP_FINISHED, ConnectionEvent.UP_BROKEN),
        (ConnectionEvent.DOWN_FINISHED, ConnectionEvent.DOWN_BROKEN),
    ):
        for first, second in ((a, b), (b, a)):
            broken = [first.name.endswith("BROKEN"), second.name.endswith("BROKEN")]
            expected = ConnectionState.LINGERING if sum(broken) == 1 else ConnectionState.CLOSED
            assert next_state(next_state(ConnectionState.RELAYING, first), second) is expected, (first, second)


class Item:
    def __init__(self) -> None:
        self.crashes: list[Exception] = []

    def crashed(self, error: Exception) -> None:
        self.crashes.append(error)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(
        st.tuples(st.sampled_from(["fast", "slow"]), st.floats(0, 3), st.booleans()),
        max_size=30,
    )
)
def test_deadlines_expire_in_order_and_only_if_not_discarded(plan: list[tuple[str, float, bool]]) -> None:
    clock = Clock()
    timers = Timers(clock)
    expired: list[Item] = []
    queues = {name: timers.queue(duration, expired.append) for name, duration in (("fast", 1.0), ("slow", 5.0))}
    expected: list[tuple[float, int, Item]] = []
    for name, pause, discard in plan:
        clock.now += pause
        timers.expire(clock.now)
        item = Item()
        queues[name].add(item)
        if discard:
            queues[name].discard(item)
        else:
            expected.append((clock.now + queues[name].duration, len(expected), item))
    clock.now += 100
    timers.expire(clock.now)
    assert set(expired) == {item for _, _, item in expected}
    for name in queues:
        assert len(queues[name]) == 0


def test_a_deadline_is_not_early_and_can_be_set_again() -> None:
    clock = Clock()
    timers = Timers(clock)
    expired: list[Item] = []
    queue = timers.queue(1.0, expired.append)
    item = Item()
    queue.add(item)
    clock.now = 0.9
    queue.add(item)
    assert queue.expire(1.5) == pytest.approx(1.9)
    assert expired == []
    assert queue.expire(1.9) == math.inf
    assert expired == [item]


def test_a_fault_in_a_callback_goes_to_its_item() -> None:
    timers = Timers(Clock())
    item = Item()
    queue = timers.queue(0.0, lambda _: 1 // 0)
    queue.add(item)
    timers.expire(0.0)
    assert [type(e) for e in item.crashes] == [ZeroDivisionError]


def test_pipe_with_bytes_in_it_is_never_lent_again() -> None:
    pool = PipePool()
    pipe = pool.borrow()
    assert pipe is not None
    pipe.inside = os.write(pipe.write_end, b"secret")
    pool.give_back(pipe)
    assert (pool.alive, pool.idle) == (0, 0)
    other = pool.borrow()
    assert other is not None
    with pytest.raises(BlockingIOError):
        os.read(other.read_end, 10)
    pool.give_back(other)
    pool.close()


def test_pool_is_bounded() -> None:
    pool = PipePool(max_pipes=3, max_idle=1)
    lent = [pool.borrow() for _ in range(4)]
    assert lent[3] is None
    for pipe in lent[:3]:
        assert pipe is not None
        pool.give_back(pipe)
    assert (pool.alive, pool.idle) == (1, 1)
    pool.close()
    assert pool.alive == 0


def test_pipes_that_are_too_small_are_not_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user beyond pipe-user-pages-soft, whose pipes the kernel makes two pages small."""
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(1, "over pipe-user-pages-soft")
        if command == fcntl.F_GETPIPE_SZ:
            return 8192
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    pool = PipePool()
    assert pool.borrow() is None
    assert pool.alive == 0
    assert SMALLEST_USEFUL > 8192


def test_many_deadlines_at_once_take_turns() -> None:
    """All of a crowd that keeps silent: some at a time, and none is passed over or comes twice."""
    clock = [0.0]
    timers = Timers(lambda: clock[0])
    expired: list[Item] = []
    queue = timers.queue(1.0, expired.append)
    items = [Item() for _ in range(1_000)]
    for item in items:
        queue.add(item)
    clock[0] = 2.0
    turns = 0
    while len(queue):
        before = len(expired)
        timers.expire(clock[0])
        assert 0 < len(expired) - before <= AT_ONCE
        turns += 1
    assert expired == items
    assert turns == -(-len(items) // AT_ONCE)


def test_a_deadline_that_another_one_cancels_or_renews_does_not_come() -> None:
    clock = [0.0]
    timers = Timers(lambda: clock[0])
    first, second, third = Item(), Item(), Item()
    expired: list[Item] = []

    def expire(item: Item) -> None:
        expired.append(item)
        if item is first:
            queue.discard(second)
            queue.add(third)

    queue = timers.queue(1.0, expire)
    for item in (first, second, third):
        queue.add(item)
    clock[0] = 1.5
    timers.expire(clock[0])
    assert expired == [first]
    assert len(queue) == 1


def test_who_asks_for_a_turn_while_the_loop_sleeps_gets_it() -> None:
    """A deadline runs between rounds, and no event would end the sleep."""

    class Handler:
        def __init__(self) -> None:
            self.came = trio.Event()

        def on_events(self, events: int) -> None:
            raise AssertionError(events)

        def on_turn(self) -> None:
            self.came.set()

        def crashed(self, error: Exception) -> None:
            raise error

    async def main() -> None:
        loop = EventLoop(Timers())
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.run)
                for _ in range(3):
                    await trio.testing.wait_all_tasks_blocked()
                    handler = Handler()
                    loop.call_soon(handler)
                    await handler.came.wait()
                nursery.cancel_scope.cancel()
        loop.close()

    trio.run(main)
