"""Signs of life: who gives them, who takes them back, and what excuses silence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import pbkdf2_hmac
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sidecar.supervisor.child import ProxyProcess
from sidecar.supervisor.client import SupervisorClient
from sidecar.supervisor.heartbeat import CLASSIFIER, KINDS, LOOP, Heartbeat, new_page
from sidecar.supervisor.ipc import IpcChannel
from sidecar.supervisor.watchdog import Watchdog


@contextmanager
def supervised() -> Iterator[tuple[SupervisorClient, Heartbeat]]:
    """A proxy's client, and the page as its supervisor sees it."""
    page = new_page()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seen, given = Heartbeat(page), Heartbeat(page)
    os.close(page)
    with ours, theirs:
        yield SupervisorClient(IpcChannel(theirs), given, {}, again=False), seen
    seen.close()
    given.close()


@pytest.mark.trio
async def test_nobody_waits_for_a_judge_that_has_ended(
    autojump_clock: MockClock,  # noqa: ARG001 (takes no time)
) -> None:
    """A policy that has no names any more, or a drain: its thread ends, and is no fault."""
    answers = iter([True, False, None])
    found: list[bool] = []
    with supervised() as (client, page), trio.CancelScope() as scope:

        def turned() -> bool | None:
            found.append(page.last(CLASSIFIER) > 0)
            try:
                return next(answers)
            except StopIteration:
                scope.cancel()
                return None

        await client.send_heartbeats(turned)
    assert found == [False, True, True, False]


def test_nobody_waits_for_a_proxy_that_has_taken_all_down() -> None:
    """A start that failed: on a busy machine its process may take a second to end."""
    with supervised() as (client, page):
        client.workers_answered()
        client.nothing_left()
        assert [page.last(kind) for kind in range(KINDS)] == [0, 0, 0]
    assert not Watchdog().check(100.0, [0.0, 0.0, 0.0]).silent


@pytest.mark.trio
async def test_no_sign_comes_after_the_last(
    autojump_clock: MockClock,  # noqa: ARG001 (takes no time)
) -> None:
    """The next one may have been due at the moment when all were taken back."""
    with supervised() as (client, page):
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_heartbeats, lambda: None)
                await wait_all_tasks_blocked()
                assert page.last(LOOP) > 0
                client.nothing_left()
        assert page.last(LOOP) == 0


def test_a_sign_that_is_taken_back_is_missed_no_more() -> None:
    watch = Watchdog()
    watch.check(100.0, [100.0, 100.0, 0.0])
    assert watch.check(100.5, [100.4, 0.0, 0.0])[:2] == (False, False)
    assert watch.check(106.0, [106.0, 0.0, 0.0])[:2] == (False, False)


def test_a_thread_that_has_ended_makes_nobody_look_older() -> None:
    """What it had waited for a CPU is in the sum no more."""
    watch = Watchdog()
    watch.check(100.0, [100.0, 0.0, 0.0], queued=30.0)
    assert not watch.check(100.3, [100.0, 0.0, 0.0], queued=2.0).hung


def test_threads_that_wait_for_a_cpu_do_not_excuse_the_one_that_gives_the_signs() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    page = new_page()
    worked, over = Barrier(3), Event()
    waited: list[float] = []

    def compete(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread
        pbkdf2_hmac("sha256", b"", b"", 200_000)  # without the interpreter's lock
        waited.append(int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9)
        worked.wait()
        over.wait()

    with theirs:
        child = ProxyProcess(os.getpid(), IpcChannel(ours), Heartbeat(page))
        os.close(page)
        before = child.cpu_wait()
        threads = [Thread(target=compete, args=[min(os.sched_getaffinity(0))]) for _ in range(2)]
        for thread in threads:
            thread.start()
        worked.wait()
        found = child.cpu_wait() - before
        over.set()
        for thread in threads:
            thread.join()
        child.close()
    assert sum(waited) > 0.01
    assert found < sum(waited) / 2
