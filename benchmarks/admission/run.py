"""Carries out a run: rounds, in each of which a fresh injector gets every load in turn."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.admission import reviews
from benchmarks.admission.clients import connected
from benchmarks.admission.figures import FLAT_OUT, INJECTOR, MEMORY, PACED, PATCH, Load, Measured
from benchmarks.admission.load import WARM_UP, Generator, Job, generator, percentile
from benchmarks.admission.precedence import precedence
from benchmarks.admission.reviews import Question
from benchmarks.admission.server import Injector, running
from benchmarks.errors import CandidateError, MeasurementError
from benchmarks.progress import Progress
from benchmarks.results import Results, Sample
from benchmarks.stage import Placement
from daemon.kubernetes.http_client import HttpError

_FLAT_OUT_SHARE: Final = 10
"""The ceiling is found in this part of a load's time: it needs no rare events."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; ``seconds`` is the length of a load at ``rate`` requests per second.

    ``precedence``: loads at the rate run before all other programs on this machine.
    """

    loads: Sequence[Load]
    rounds: int
    seconds: float
    rate: float
    precedence: bool = False


class Runner:
    """One run. ``path`` is where the JSON document is kept up to date after every round."""

    def __init__(self, placement: Placement, results: Results, progress: Progress, path: Path, plan: Plan) -> None:
        self._placement = placement
        self._results = results
        self._progress = progress
        self._path = path
        self._plan = plan

    def run(self) -> None:
        """Carry out the plan. Failures are samples too. Raises :class:`CandidateError` when no injector comes up."""
        self._progress.begin(self._plan.rounds * (2 * len(self._plan.loads) + 1))
        with generator(self._placement.others) as load:
            for number in range(1, self._plan.rounds + 1):
                self._progress.show(number, INJECTOR, "starting")
                with running(self._placement.proxy) as injector:
                    self._round(number, injector, load)
                self._results.write(self._path)

    def _round(self, number: int, injector: Injector, load: Generator) -> None:
        fresh = injector.proportional_mib()
        traffic = self._traffic(number, injector)
        seconds, rate = self._plan.seconds, self._plan.rate
        for measured, long, pace in ((PACED, seconds, rate), (FLAT_OUT, seconds / _FLAT_OUT_SHARE, None)):
            for each in self._plan.loads:
                self._progress.show(number, each.name, measured.name)
                job = Job(injector.port, injector.authority, traffic[each.traffic], long, pace)
                first_of_all = self._plan.precedence and pace is not None
                with precedence(injector.pid, load.pid) if first_of_all else nullcontext():
                    values, errors, first = _measure(injector, load, job)
                self._keep(number, each.name, measured, values, errors, first if not values else None)
                if first and values:
                    self._progress.say(f"   the first error: {first}")
        memory = {"fresh_mib": fresh, "after_mib": injector.proportional_mib(), "peak_mib": injector.peak_mib()}
        self._keep(number, INJECTOR, MEMORY, memory)

    def _traffic(self, number: int, injector: Injector) -> dict[str, tuple[Question, ...]]:
        """The requests, made with the injector's own patches, whose sizes are figures."""
        patches = trio.run(_patches, injector)
        pods = reviews.pods()
        for name, text in patches.items():
            values = {"review": float(len(reviews.mutation(pods[name]).body)), "patch": float(len(text))}
            self._results.samples.append(Sample(number, name, PATCH.name, values))
        return _traffic(patches)

    def _keep(
        self, number: int, name: str, measured: Measured, values: Mapping[str, float], errors: int = 0,
        failure: str | None = None,
    ) -> None:  # fmt: skip
        sample = Sample(number, name, measured.name, values, errors, failure)
        self._results.samples.append(sample)
        self._progress.done(number, name, measured, sample)


def _measure(injector: Injector, load: Generator, job: Job) -> tuple[dict[str, float], int, str]:
    """Figures, unless nothing was answered as it should be; how many errors, and the first of them."""
    cpu, waits = injector.cpu_seconds(), injector.waits()
    outcome = load.run(job)
    cpu = injector.cpu_seconds() - cpu
    if not outcome.took:
        return {}, outcome.errors, outcome.first_error
    waited = sum(max(0.0, after - waits.get(task, 0.0)) for task, after in injector.waits().items())
    asked = len(outcome.took) + outcome.errors + WARM_UP
    figures = {
        **{f"p{share}_ms": percentile(outcome.took, share / 100) * 1e3 for share in (50, 90, 99)},
        "max_ms": max(outcome.took) * 1e3,
        "per_s": len(outcome.took) / outcome.wall,
        "cpu_per_1000": cpu / asked * 1e3,
        "waited_ms": waited / asked * 1e3,
        "late_p99_ms": percentile(outcome.late, 0.99) * 1e3,
    }
    wanted = PACED if job.rate is not None else FLAT_OUT
    return {key: figures[key] for key in wanted.figures}, outcome.errors, outcome.first_error


def honest_reviews(injector: Injector) -> tuple[Question, ...]:
    """Reviews of all sorts of Pods, to be sent in turn. Raises :class:`CandidateError` when it does not inject."""
    return _traffic(trio.run(_patches, injector))["reviews"]


def _traffic(patches: Mapping[str, bytes]) -> dict[str, tuple[Question, ...]]:
    pods = reviews.pods()
    return reviews.traffic({name: patched(pods[name], json.loads(text)) for name, text in patches.items()})


async def _patches(injector: Injector) -> dict[str, bytes]:
    """By sort of Pod, the JSON patch that the injector answers with."""
    found = {}
    async with connected(injector.port, injector.authority) as client:
        for name, pod in reviews.pods().items():
            question = reviews.mutation(pod)
            try:
                answer = await client.ask(question.method, question.path, question.body)
                found[name] = base64.b64decode(json.loads(answer.body)["response"]["patch"])
            except HttpError as error:
                raise CandidateError(f"podlane injector did not answer: {error}.") from None
            except (ValueError, KeyError):
                raise CandidateError(
                    f"podlane injector did not inject the Pod {name!r}: {answer.status} {answer.body[:400]!r}"
                ) from None
    return found


def patched(pod: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The Pod after a JSON patch that only adds (RFC 6902 section 4.1), as all do that inject into a new Pod.

    Raises :class:`MeasurementError` for any other operation.
    """
    result: dict[str, Any] = copy.deepcopy(dict(pod))
    for operation in operations:
        if operation["op"] != "add":
            raise MeasurementError(f"a new Pod was to be changed by {operation['op']!r}, which this cannot do")
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        spot: Any = result
        for key in way:
            spot = spot[int(key)] if isinstance(spot, list) else spot[key]
        if isinstance(spot, list):
            spot.insert(len(spot) if last == "-" else int(last), operation["value"])
        else:
            spot[last] = operation["value"]
    return result
