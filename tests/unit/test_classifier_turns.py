"""One thread, many queues: each with packets has its turn, and a flood takes no more than one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from datapath.stepaside import turns
from datapath.stepaside.turns import TURN, ClassifierThread

PATIENCE = 20.0


@contextmanager
def pipe() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def test_a_flood_takes_one_turn_at_a_time() -> None:
    """The flood never runs dry; the other queue's only packet is read after at most one more turn of the flood."""
    read: list[str] = []
    begun, done = threading.Event(), threading.Event()

    def flood(most: int) -> None:
        read.extend(["flood"] * most)
        if len(read) == 10 * TURN:
            theirs.send(b"x")
            read.append("sent")
        begun.set()

    def honest(most: int) -> None:
        assert most == TURN
        ours.recv(most)
        read.append("honest")
        done.set()

    with pipe() as (flooded, end), pipe() as (ours, theirs), ClassifierThread() as thread:
        end.send(b"x")  # readable for ever
        thread.add(ours.fileno(), honest)  # first: the flood begins at once
        thread.add(flooded.fileno(), flood)
        assert begun.wait(PATIENCE)
        assert done.wait(PATIENCE)
        thread.remove(flooded.fileno())
        thread.remove(ours.fileno())
    assert read.index("honest") - read.index("sent") <= 2 * TURN + 1


def test_after_removal_no_turn_runs() -> None:
    counts = [0, 0]
    first = [threading.Event(), threading.Event()]

    def turn(number: int, most: int) -> None:  # noqa: ARG001
        counts[number] += 1
        first[number].set()

    with ExitStack() as stack, ClassifierThread() as thread:
        ends = [stack.enter_context(pipe()) for _ in counts]
        for number, (ours, theirs) in enumerate(ends):
            theirs.send(b"x")
            thread.add(ours.fileno(), partial(turn, number))
        assert all(each.wait(PATIENCE) for each in first)
        thread.remove(ends[0][0].fileno())
        seen = counts[0]
        first[1].clear()
        assert first[1].wait(PATIENCE), "the other goes on"
        assert counts[0] == seen


def test_a_queue_without_packets_has_a_turn_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TIDY_S", 0.001)
    asked: list[int] = []
    twice = threading.Event()

    def turn(most: int) -> None:
        asked.append(most)
        if len(asked) > 1:
            twice.set()

    with pipe() as (ours, _), ClassifierThread() as thread:
        thread.add(ours.fileno(), turn)
        assert twice.wait(PATIENCE)
        thread.remove(ours.fileno())
    assert set(asked) == {0}


@pytest.mark.parametrize("queues", [0, 3])
def test_its_end_waits_for_nothing(queues: int) -> None:
    with ExitStack() as stack, ClassifierThread() as thread:
        for _ in range(queues):
            ours, _ = stack.enter_context(pipe())
            thread.add(ours.fileno(), lambda _: None)
