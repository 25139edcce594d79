"""The bounds of the injector's work: short bodies in its own process, long work in another one, a real one."""

from __future__ import annotations

import gc
import math
import os
import pickle
import signal
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.http import RequestError
from injector.server.budget import MAX_SHORT, DecodingBudget
from injector.server.review import outlined
from injector.server.worker import MOST_BYTES

pytestmark = pytest.mark.timeout(120)

PATIENCE = 60
"""Seconds for what takes one, on a machine that is busy."""


@asynccontextmanager
async def working(patience: float = PATIENCE) -> AsyncIterator[DecodingBudget]:
    budget = DecodingBudget()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.work)
        with trio.fail_after(patience):
            yield budget
        nursery.cancel_scope.cancel()


class Held:
    """Work that lasts until it is let go: it reads from a FIFO."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        os.mkfifo(self.path)
        self.work = partial(Path.read_text, self.path)

    async def begun(self) -> int:
        """Wait until it has begun; :meth:`go` takes what this gives."""
        return await trio.to_thread.run_sync(partial(os.open, self.path, os.O_WRONLY), abandon_on_cancel=True)

    @staticmethod
    def go(descriptor: int) -> None:
        os.close(descriptor)


def worker() -> int:
    """The pid of the process; those of works are its children."""
    (pid,) = [pid for pid in children(os.getpid()) if b"injector.server.worker" in commandline(pid)]
    return pid


def children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


def commandline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.trio
async def test_short_bodies_wait_for_each_other() -> None:
    budget, order = DecodingBudget(), list[str]()
    ends = {"first": trio.Event(), "large": trio.Event(), "small": trio.Event()}

    async def use(name: str, size: int) -> None:
        async with budget.decoding(size):
            order.append(name)
            await ends[name].wait()

    async with trio.open_nursery() as nursery:
        for name, size in (("first", MAX_SHORT - 10), ("large", 2 * MAX_SHORT), ("small", 11)):
            nursery.start_soon(use, name, size)
            await trio.testing.wait_all_tasks_blocked()
        assert order == ["first"]
        ends["first"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first", "small"]
        ends["small"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first", "small", "large"]
        ends["large"].set()


@pytest.mark.parametrize(
    ("bytes_a_second", "wanted"),
    [
        pytest.param(0.001, [5, 1, 3, 4], id="small before large"),
        pytest.param(1e18, [5, 4, 1, 3], id="unless the large has waited for longer"),
    ],
)
@pytest.mark.trio
async def test_long_work_is_done_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_a_second: float, wanted: list[int]
) -> None:
    monkeypatch.setattr("injector.server.budget._BYTES_A_SECOND", bytes_a_second)
    order: list[int] = []
    held = Held(tmp_path, "held")
    async with working() as budget, trio.open_nursery() as nursery:

        async def do(size: int, work: Callable[[], object]) -> None:
            await budget.run(work, size, "a")
            order.append(size)

        nursery.start_soon(do, 5, held.work)
        descriptor = await held.begun()
        for size in (4, 1, 3):
            nursery.start_soon(do, size, partial(sum, range(size)))
            await trio.testing.wait_all_tasks_blocked()
        assert order == []
        held.go(descriptor)
    assert order == wanted


@pytest.mark.trio
async def test_each_client_has_its_turn_however_much_another_asks_for(tmp_path: Path) -> None:
    order: list[str] = []
    held = Held(tmp_path, "held")
    async with working() as budget, trio.open_nursery() as nursery:

        async def do(client: str, size: int, work: Callable[[], object]) -> None:
            await budget.run(work, size, client)
            order.append(client)

        nursery.start_soon(do, "hungry", 1, held.work)
        descriptor = await held.begun()
        for client, size in (*[("hungry", 1)] * 10, ("other", 1000)):
            nursery.start_soon(do, client, size, partial(len, b"xyz"))
            await trio.testing.wait_all_tasks_blocked()
        held.go(descriptor)
    assert order.index("other") <= 2


@pytest.mark.trio
async def test_abandoned_work_is_ended_and_what_has_not_begun_never_begins(tmp_path: Path) -> None:
    held, never = Held(tmp_path, "held"), tmp_path / "never"
    async with working() as budget:
        with trio.CancelScope() as leaving:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(budget.run, held.work, 1, "a")
                descriptor = await held.begun()
                (process,) = children(worker())
                ended = os.pidfd_open(process)
                nursery.start_soon(budget.run, partial(never.write_text, "x"), 1, "a")
                await trio.testing.wait_all_tasks_blocked()
                leaving.cancel()
        await trio.lowlevel.wait_readable(ended)
        for each in (ended, descriptor):
            os.close(each)
        await budget.run(partial((tmp_path / "next").write_text, "x"), 1, "a")
        assert (tmp_path / "next").exists()
        assert not never.exists()


@pytest.mark.trio
async def test_what_work_raises_is_raised() -> None:
    async with working() as budget:
        with pytest.raises(ValueError, match="invalid literal"):
            await budget.run(partial(int, "x"), 1, "a")
        with pytest.raises(RequestError, match="The body is not JSON") as raised:
            await budget.run(partial(outlined, b"["), 1, "a")
        assert raised.value.status == 400


@pytest.mark.trio
async def test_nothing_is_left_of_work_that_raised_when_its_error_has_been_told() -> None:
    """Each has a review of some MiB: it must not wait for the garbage collector, which does not know how large it is."""

    async def asks() -> weakref.ref[object]:
        work = partial(outlined, b"[")
        with pytest.raises(RequestError, match="The body is not JSON"):
            await budget.run(work, 1, "a")
        return weakref.ref(work)

    gc.disable()
    try:
        async with working() as budget:
            left = await asks()
            assert left() is None
    finally:
        gc.enable()


def test_an_error_of_a_request_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(RequestError(405, "Not so.", ("allow", "POST"))))
    assert (error.status, str(error), error.headers) == (405, "Not so.", (("allow", "POST"),))


@pytest.mark.trio
async def test_work_that_takes_too_much_memory_is_refused_and_harms_nothing() -> None:
    async with working() as budget:
        with pytest.raises(RequestError, match="takes more than 24 MiB of memory") as raised:
            await budget.run(partial(bytes, MOST_BYTES + 2**20), 1, "a")
        assert raised.value.status == 413
        assert await budget.run(partial(len, b"xyz"), 1, "a") == 3
        with pytest.raises(RequestError, match="takes more than 24 MiB of memory"):
            await budget.run(partial(bytes, MOST_BYTES + 2**20), 1, "a")


@pytest.mark.trio
async def test_work_has_all_of_its_memory_whatever_was_done_before() -> None:
    async with working() as budget:
        for _ in range(2):
            await budget.run(partial(exec, f"import sys; sys.kept = bytes({MOST_BYTES // 2})"), 1, "a")
        await budget.run(partial(exec, f"bytes({MOST_BYTES // 2 + 2**20})"), 1, "a")


@pytest.mark.trio
@pytest.mark.nightly
@pytest.mark.timeout(660)
async def test_work_that_takes_too_long_is_ended() -> None:
    async with working(600) as budget:  # it gets what others leave of the processor
        with pytest.raises(RequestError, match="takes more than 5 s of the processor") as raised:
            await budget.run(partial(math.factorial, 3_000_000), 1, "a")
        assert raised.value.status == 413
        assert await budget.run(partial(len, b"xyz"), 1, "a") == 3


@pytest.mark.trio
async def test_work_whose_process_is_killed_is_refused(tmp_path: Path) -> None:
    held = Held(tmp_path, "held")
    async with working() as budget:
        async with trio.open_nursery() as nursery:

            async def do() -> None:
                with pytest.raises(RequestError, match="takes more than 24 MiB"):
                    await budget.run(held.work, 1, "a")

            nursery.start_soon(do)
            descriptor = await held.begun()
            (process,) = children(worker())
            os.kill(process, signal.SIGKILL)
        held.go(descriptor)
        assert await budget.run(partial(len, b"xyz"), 1, "a") == 3


@pytest.mark.trio
@pytest.mark.parametrize("meanwhile", [True, False], ids=["at work", "at rest"])
async def test_a_process_that_ends_is_started_again(tmp_path: Path, meanwhile: bool) -> None:
    held = Held(tmp_path, "held")
    async with working() as budget:
        assert await budget.run(partial(len, b"xyz"), 1, "a") == 3
        first = worker()
        ended = os.pidfd_open(first)
        if meanwhile:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(budget.run, held.work, 1, "a")  # it goes on: it has a process of its own
                descriptor = await held.begun()
                os.kill(first, signal.SIGKILL)
                await trio.lowlevel.wait_readable(ended)
                held.go(descriptor)
        else:
            os.kill(first, signal.SIGKILL)
            await trio.lowlevel.wait_readable(ended)
        os.close(ended)
        assert await budget.run(partial(len, b"xyz"), 1, "a") == 3
        assert worker() != first


@pytest.mark.trio
async def test_the_process_ends_with_the_injector() -> None:
    async with working() as budget:
        await budget.run(partial(len, b"xyz"), 1, "a")
        ended = os.pidfd_open(worker())
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_readable(ended)
    os.close(ended)
