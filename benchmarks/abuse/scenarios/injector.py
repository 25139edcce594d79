"""The injector under everything that its clients can do wrong, while an API server asks for reviews."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

import trio

from benchmarks.abuse.arena import Arena
from benchmarks.abuse.figures import INJECTOR, Promise, Scenario, Size
from benchmarks.abuse.readings import Reading, read
from benchmarks.abuse.watch import watched
from benchmarks.admission.clients import HOST, connected
from benchmarks.admission.load import Generator, Job, generator, percentile
from benchmarks.admission.reviews import Question, mutation, untouched
from benchmarks.admission.run import honest_reviews
from benchmarks.admission.server import Injector, running
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.processes import process_tree, wait_until
from daemon.log import Logger
from injector.server.budget import SHORT_BODY

_OF_RATE: Final = 0.4
"""Honest reviews a second are this part of other scenarios' requests: 200."""
_IDLE_S: Final = 60.0
"""Seconds, at most, of honest reviews alone, before."""
_PATIENCE_S: Final = 60.0
_MOST_MIB: Final = 120.0
_SLOWER: Final = 3.0
_SORTS: Final = {
    "": ("leaving", "pipelines", "slow", "unread", "idle", "crowd", "handshakes", "wrong", "flood"),
    "-connections": ("leaving", "pipelines", "slow", "unread", "idle", "crowd"),
    "-requests": ("handshakes", "wrong"),
    "-reviews": ("flood",),
}
"""The ending of a scenario's name, and what is done in it (:mod:`benchmarks.abuse.clients.reviewers`)."""


log = Logger()


@dataclass(frozen=True)
class _Course:
    """An injector, and an API server that asks it."""

    arena: Arena
    injector: Injector
    apiserver: Generator
    questions: tuple[Question, ...]
    rate: float

    def honest(self, seconds: float) -> dict[str, float]:
        """What the API server gets for some seconds."""
        before = self.read()
        job = Job(self.injector.port, self.injector.authority, self.questions, seconds, self.rate)
        got = self.apiserver.run(job)
        asked = len(got.took) + got.errors
        if not got.took:
            raise MeasurementError(f"no review was answered: {got.first_error}")
        if got.first_error:
            log.warning("honest reviews failed", count=got.errors, of=asked, first=got.first_error)
        return {
            "honest": float(asked),
            "error_share": got.errors / asked,
            "p50_ms": percentile(got.took, 0.5) * 1e3,
            "p99_ms": percentile(got.took, 0.99) * 1e3,
            "max_ms": max(got.took) * 1e3,
            "late_ms": percentile(got.late, 0.99) * 1e3,
            "cpu_share": self.read().share(before),
        }

    def read(self) -> Reading:
        """What it takes now, with what it has started."""
        return read(process_tree(self.injector.pid))

    def longest_step_ms(self) -> float:
        """How long others have had to wait at most for something that took the processor at once."""
        url = f"http://{HOST}:{self.injector.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
            found = re.search(rb"^podlane_injector_longest_step_seconds (\S+)$", answer.read(), re.MULTILINE)
        if found is None:
            raise MeasurementError("the injector does not tell its longest step")
        return float(found[1]) * 1e3


@contextmanager
def _course(arena: Arena, rate: float) -> Iterator[_Course]:
    """Everybody is at one host, whose loopback has all addresses of 127.0.0.0/8."""
    with (
        arena.server.namespace.entered(),
        generator(arena.placement.others) as apiserver,
        running(arena.placement.proxy, PYTHONMALLOC="malloc") as injector,  # as in its image
    ):
        questions = honest_reviews(injector)
        trio.run(_ask_at_length, injector)
        yield _Course(arena, injector, apiserver, questions, rate)


async def _ask_at_length(injector: Injector) -> None:
    """So that the process for long reviews is there, and counts in all readings."""
    async with connected(injector.port, injector.authority) as client:
        body = mutation({**untouched(), "status": {"message": "x" * SHORT_BODY}}).body
        if (answer := await client.ask("POST", "/mutate", body)).status != HTTPStatus.OK:
            raise MeasurementError(f"a long review was answered {answer.status} {answer.body[:200]!r}")


def _run(sorts: tuple[str, ...], arena: Arena, size: Size, _datapath: str) -> Mapping[str, float]:
    with _course(arena, size.rate * _OF_RATE) as course:
        idle = course.honest(min(size.seconds, _IDLE_S))
        before = course.read()
        authority = arena.folder / "authority.pem"
        authority.write_bytes(course.injector.authority)
        with (
            watched(course.injector.pid) as seen,
            arena.stranger(
                "reviewers", address=HOST, port=course.injector.port, authority=authority, scale=size.scale,
                sorts=",".join(sorts),
            ) as client,
        ):  # fmt: skip
            figures = course.honest(size.seconds)
            told = client.end()
        asked = sum(told.values())
        if not asked:
            raise MeasurementError("nothing was done to the injector")
        return {
            **figures,
            "asked": float(asked),
            "idle_p99_ms": idle["p99_ms"],
            "slower": figures["p99_ms"] / idle["p99_ms"],
            "peak_mib": max(seen.mib),
            "step_ms": course.longest_step_ms(),
            **_afterwards(course, before, size),
        }


def _afterwards(course: _Course, before: Reading, size: Size) -> dict[str, float]:
    """When all clients have left: nothing may be left of them."""

    def ended() -> bool:
        return course.read().descriptors <= before.descriptors

    with suppress(BenchmarkError):  # how many stay is a figure
        wait_until("an end of all connections", course.injector.pid, ended)
    after = course.read()
    told = course.honest(size.around)
    return {
        "back": after.resident_kib / before.resident_kib,
        "descriptors_left": max(0.0, after.descriptors - before.descriptors),
        "after_error_share": told["error_share"],
    }


def _scenario(ending: str, title: str, what: str) -> Scenario:
    return Scenario(
        f"injector{ending}",
        title,
        what,
        partial(_run, _SORTS[ending]),
        (
            Promise("error_share", 0.0),
            Promise("slower", _SLOWER),
            Promise("peak_mib", _MOST_MIB),
            Promise("descriptors_left", 0.0),
            Promise("after_error_share", 0.0),
        ),
        (INJECTOR,),
    )


SCENARIOS: Final = (
    _scenario(
        "-connections",
        "The injector: connections that are of no use",
        "Clients that leave with a review pending, by FIN and RST (10/s); 20 requests at once, once a second; 100 slow "
        "handshakes, 50 slow heads, 50 slow bodies; 10 that read no answer; 100 idle ones; 1,000 of one address.",
    ),
    _scenario(
        "-requests",
        "The injector: requests that cannot be answered",
        "200 failed handshakes and 20 without a request, per second; 20 WebSocket upgrades, time limits of a "
        "nanosecond, bodies that are no review and what is no HTTP, each on a connection of its own.",
    ),
    _scenario(
        "-reviews",
        "The injector: expensive reviews",
        "Three clients send reviews that take as long as any, one after another, and leave after a second: 10,000 "
        "unknown annotations, 250 classes of 10,000 ports, 120,000 classes that are none, 3 MiB of empty lists.",
    ),
    _scenario(
        "",
        "The injector: everything for a long time",
        "All of the above at once, with 200 honest reviews a second. `--seconds 3600` is an hour.",
    ),
)
