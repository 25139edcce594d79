"""Signs of life: who gives them, who takes them back, and what excuses silence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from sidecar.guard import Guard
from sidecar.supervisor.beats import JUDGE, Beats, new_page
from sidecar.supervisor.life import Watch
from sidecar.supervisor.wire import Wire


@contextmanager
def guarded() -> Iterator[tuple[Guard, Beats]]:
    """A proxy's guard, and the page as its supervisor sees it."""
    page = new_page()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seen, given = Beats(page), Beats(page)
    os.close(page)
    with ours, theirs:
        yield Guard(Wire(theirs), given, {}, again=False), seen
    seen.close()
    given.close()


@pytest.mark.trio
async def test_nobody_waits_for_a_judge_that_has_ended(
    autojump_clock: MockClock,  # noqa: ARG001 (takes no time)
) -> None:
    """A policy that has no names any more, or a drain: its thread ends, and is no fault."""
    answers = iter([True, False, None])
    found: list[bool] = []
    with guarded() as (guard, page), trio.CancelScope() as scope:

        def turned() -> bool | None:
            found.append(page.last(JUDGE) > 0)
            try:
                return next(answers)
            except StopIteration:
                scope.cancel()
                return None

        await guard.give_signs(turned)
    assert found == [False, True, True, False]


def test_a_sign_that_is_taken_back_is_missed_no_more() -> None:
    watch = Watch()
    watch.look(100.0, [100.0, 100.0, 0.0])
    assert watch.look(100.5, [100.4, 0.0, 0.0])[:2] == (False, False)
    assert watch.look(106.0, [106.0, 0.0, 0.0])[:2] == (False, False)


def test_a_thread_that_has_ended_makes_nobody_look_older() -> None:
    """What it had waited for a CPU is in the sum no more."""
    watch = Watch()
    watch.look(100.0, [100.0, 0.0, 0.0], queued=30.0)
    assert not watch.look(100.3, [100.0, 0.0, 0.0], queued=2.0).hung
