"""The load generator, in a process and on a CPU of its own.

Open loop (``paced``): requests leave when they are due, whether or not earlier ones are answered, and latency counts
from when a request was due. So a server that stalls is charged for everything that had to wait meanwhile ("coordinated
omission", which hides just that, is https://groups.google.com/g/mechanical-sympathy/c/icNZJejUHfE). Gaps are those of
independent arrivals (exponential, from a fixed seed): Pods are not created at regular intervals.

Closed loop (``flat_out``): a fixed number of clients, each of which asks again as soon as it is answered.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, count
from multiprocessing.connection import Connection
from typing import Final

import trio

from benchmarks.admission.clients import Client, connected
from benchmarks.admission.reviews import Question
from benchmarks.errors import MeasurementError
from daemon.kubernetes.http_client import HttpError

_SEED: Final = 20261125
_EARLY: Final = 0.0015
"""Seconds before a request is due that sleeping ends: epoll_wait(2) counts in milliseconds, and rounds up."""
_CLIENTS: Final = 8
"""Clients of a closed loop, and of the warm-up."""
WARM_UP: Final = 100
"""Requests before each load, which do not count but cost."""
_PATIENCE: Final = 10.0
"""Seconds after which a request has failed: the time limit of webhooks, unless one sets another."""
_BETWEEN: Final = 60.0
"""Seconds that a generator may take longer than it was told before it is given up."""


@dataclass(frozen=True, slots=True)
class Job:
    """A load. ``rate`` is requests per second; None: as fast as the answers come."""

    port: int
    authority: bytes
    questions: tuple[Question, ...]
    seconds: float
    rate: float | None


@dataclass(slots=True)
class Outcome:
    """What came of it, in seconds: of each answered request, how long it took and how late it left."""

    took: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    wall: float = 0.0
    errors: int = 0
    first_error: str = ""


def due_times(rate: float, seconds: float) -> list[float]:
    """When requests are due, in seconds from the beginning; always the same."""
    chance = random.Random(_SEED)
    return list(accumulate(chance.expovariate(rate) for _ in range(max(1, round(rate * seconds)))))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed (nearest rank); 0 when there are none."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)] if values else 0.0


class _Asker:
    """Sends questions in turn, and keeps what comes of it."""

    def __init__(self, client: Client, questions: Sequence[Question]) -> None:
        self._client = client
        self._questions = questions
        self._numbers = count(1)
        self.outcome = Outcome()

    async def ask(self, due: float | None = None) -> None:
        """Once. ``due``: when it ought to have left; now."""
        number = next(self._numbers)
        question = self._questions[number % len(self._questions)]
        body, uid = question.numbered(number)
        began = trio.current_time()
        due = began if due is None else due
        try:
            with trio.fail_after(_PATIENCE):
                answer = await self._client.ask(question.method, question.path, body)
        except (HttpError, trio.TooSlowError) as error:
            self._failed(str(error) or f"no answer after {_PATIENCE:g} s")
            return
        ended = trio.current_time()
        if not question.answers(answer.status, answer.body, uid):
            self._failed(f"{question.path} was answered {answer.status} {answer.body[:200]!r}")
            return
        self.outcome.took.append(ended - due)
        self.outcome.late.append(began - due)

    def _failed(self, why: str) -> None:
        self.outcome.errors += 1
        self.outcome.first_error = self.outcome.first_error or why

    async def paced(self, times: Sequence[float]) -> None:
        """One request at each time from now."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for time in times:
                await trio.sleep_until(began + time - _EARLY)
                while trio.current_time() < began + time:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(self.ask, began + time)
        self.outcome.wall = trio.current_time() - began

    async def flat_out(self, seconds: float = math.inf, requests: float = math.inf) -> None:
        """As many as can be, by :data:`_CLIENTS` clients at once, until either is over."""
        began = trio.current_time()
        left = iter(range(round(requests))) if requests < math.inf else count()

        async def again() -> None:
            for _ in left:
                if trio.current_time() >= began + seconds:
                    return
                await self.ask()

        async with trio.open_nursery() as nursery:
            for _ in range(_CLIENTS):
                nursery.start_soon(again)
        self.outcome.wall = trio.current_time() - began


async def generate(job: Job) -> Outcome:
    """Carry out a job, after a warm-up that does not count."""
    async with connected(job.port, job.authority) as client:
        asker = _Asker(client, job.questions)
        await asker.flat_out(requests=WARM_UP)
        asker.outcome = Outcome()
        gc.collect()
        gc.disable()
        try:
            if job.rate is None:
                await asker.flat_out(job.seconds)
            else:
                await asker.paced(due_times(job.rate, job.seconds))
        finally:
            gc.enable()
        return asker.outcome


class Generator:
    """The process. :func:`generator` starts it."""

    def __init__(self, process: multiprocessing.process.BaseProcess, line: Connection) -> None:
        self._process = process
        self._line = line

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None, "generator() has started it"
        return self._process.pid

    def run(self, job: Job) -> Outcome:
        """Carry out a job. Raises :class:`MeasurementError` when the process has ended."""
        try:
            self._line.send(job)
            if not self._line.poll(job.seconds + _BETWEEN):
                raise MeasurementError(f"the load generator has not ended after {job.seconds + _BETWEEN:g} s")
            outcome = self._line.recv()
        except (EOFError, OSError) as error:
            raise MeasurementError(f"the load generator is gone: {error!r}") from None
        assert isinstance(outcome, Outcome)
        return outcome


@contextmanager
def generator(cpu: int) -> Iterator[Generator]:
    """A generator on one CPU, until the block ends."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs, cpu), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Generator(process, ours)
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(line: Connection, cpu: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the one who started this
    os.sched_setaffinity(0, {cpu})
    while True:
        try:
            job = line.recv()
        except EOFError:
            return
        try:
            outcome = trio.run(generate, job)
        except* (OSError, trio.BrokenResourceError) as group:
            outcome = Outcome(errors=1, first_error=f"there is no connection: {group.exceptions[0]!r}")
        line.send(outcome)
