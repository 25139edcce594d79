"""The benchmark of admission as a user runs it: a real injector, a real load, files, an interruption; and the load generator."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks import results as benchmark_results
from benchmarks.admission.clients import connected
from benchmarks.admission.figures import FLAT_OUT, INJECTOR, MEMORY, PACED, PATCH
from benchmarks.admission.load import Job, generate
from benchmarks.admission.precedence import precedence
from benchmarks.admission.reviews import Question
from benchmarks.admission.server import running
from benchmarks.analysis import Analysis
from benchmarks.errors import BenchmarkError, CandidateError
from daemon.http import HttpRequest, HttpResponse
from daemon.kubernetes.http_client import HttpError
from tests.injector_server import authority, serving
from tests.waiting import until

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_run_measures_its_loads_and_writes_json_and_tables(tmp_path: Path) -> None:
    loads = ["reviews", "health"]
    process = benchmark(
        "admission", "--rounds", "1", "--seconds", "0.2", "--loads", ",".join(loads), "--output", str(tmp_path)
    )
    told, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert told.split() == [str(tmp_path / "results.json"), str(tmp_path / "results.md")]
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.complete
    analysis = Analysis(found)
    assert not analysis.errors()
    for measured, who in ((PACED, loads), (FLAT_OUT, loads), (MEMORY, [INJECTOR]), (PATCH, ["plain", "classes"])):
        for name in who:
            values = {key: analysis.median(measured.name, key, name) for key in measured.figures}
            assert None not in values.values(), (measured.name, name)
            assert min(value for key, value in values.items() if key not in ("waited_ms", "late_p99_ms")) > 0, values
    reviews, health = (analysis.median(PACED.name, "cpu_per_1000", name) for name in ("reviews", "health"))
    assert reviews > health  # type: ignore[operator]  # both are there, as was seen above
    tables = (tmp_path / "results.md").read_text()
    assert re.search(r"\| p99 of reviews at the rate, ms \| ≤ 10 \| [\d.,]+ \| (met|\*\*not met\*\*) \|", tables)


def test_an_interrupted_run_keeps_its_samples_and_ends_the_injector(tmp_path: Path) -> None:
    options = ("--loads", "health", "--seconds", "0.1", "--rounds", "50", "--output", str(tmp_path))
    process = benchmark("admission", *options)
    assert process.stderr is not None
    assert "health" in process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2  # the injector and the generator
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    until("the end of its processes", lambda: not [c for c in children if Path(f"/proc/{c}").exists()])
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.samples
    assert not found.complete
    assert "interrupted" in (tmp_path / "results.md").read_text()


def start(*options: str) -> None:
    with running(None, *options):
        pass


def kill() -> None:
    with running() as injector:
        os.kill(injector.pid, signal.SIGKILL)
        until("the injector's end", lambda: ") Z" in Path(f"/proc/{injector.pid}/stat").read_text())
        injector.peak_mib()


def test_an_injector_that_ends_or_never_begins_is_told_with_its_last_words() -> None:
    with pytest.raises(CandidateError, match=r"(?s)ended with -9\. It said: .*listening"):
        kill()
    with pytest.raises(CandidateError, match=r"(?s)did not come up\. It said: .*'sometimes' is not one of"):
        start("--log-format", "sometimes")


def scheduling_of(pid: int) -> set[int]:
    """The policies of all threads, while they have precedence. Raises BenchmarkError."""
    with precedence(pid):
        return {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


def test_precedence_ends_with_the_load_and_takes_the_right_to_it() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        if os.geteuid():
            with pytest.raises(BenchmarkError, match="--precedence takes root"):
                scheduling_of(process.pid)
        else:
            assert scheduling_of(process.pid) == {os.SCHED_RR}
        assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER
        assert process.stdin is not None
        process.stdin.close()


# --- the load generator ----------------------------------------------------------------------------------------------


def job(port: int, rate: float | None, path: str = "/", seconds: float = 0.2) -> Job:
    pem = authority().cert_pem.bytes()
    return Job(port, pem, (Question("GET", path, b"", b"done"),), seconds, rate)


class Stalling:
    """Answers at once, but for one pause in which it answers nobody."""

    def __init__(self, after: int, pause: float) -> None:
        self.after = after
        self.pause = pause
        self.free = trio.Lock()

    async def __call__(self, _request: HttpRequest) -> HttpResponse:
        async with self.free:
            self.after -= 1
            if self.after == 0:
                await trio.sleep(self.pause)
        return HttpResponse.text(200, "done")


@pytest.mark.trio
async def test_a_stall_is_charged_to_all_that_had_to_wait() -> None:
    """Requests that were due while the server stalled count from then; a client that waits would have one slow one."""
    async with serving({"/": Stalling(after=150, pause=0.2)}) as (_, port):  # 100 of them are the warm-up's
        outcome = await generate(job(port, rate=500, seconds=0.5))
    assert outcome.errors == 0
    assert len(outcome.took) == 250
    slow = [took for took in outcome.took if took > 0.05]
    assert len(slow) > 50, "75 are due in the first 150 ms of the pause"
    assert max(outcome.took) > 0.19


@pytest.mark.trio
async def test_wrong_answers_are_errors_and_told() -> None:
    async def wrong(_request: HttpRequest) -> HttpResponse:
        return HttpResponse.text(200, "something else")

    async with serving({"/": wrong}) as (_, port):
        outcome = await generate(job(port, None, seconds=0.05))
    assert not outcome.took
    assert outcome.errors > 0
    assert "something else" in outcome.first_error


@pytest.mark.trio
async def test_many_long_requests_at_once_are_answered() -> None:
    async def length(request: HttpRequest) -> HttpResponse:
        return HttpResponse.text(200, str(len(await request.body(2**20))))

    said: list[Any] = []
    async with serving({"/": length}) as (_, port), connected(port, authority().cert_pem.bytes()) as client:

        async def ask(size: int) -> None:
            said.append((await client.ask("POST", "/", bytes(size))).body.strip() == str(size).encode())

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for size in range(200_000, 200_020):
                    nursery.start_soon(ask, size)
    assert said == [True] * 20


@pytest.mark.trio
async def test_a_server_that_goes_away_is_an_error() -> None:
    gone = trio.Event()

    async def never(_request: HttpRequest) -> HttpResponse:
        gone.set()
        await trio.sleep_forever()
        raise AssertionError

    async with serving({"/": never}) as (server, port), trio.open_nursery() as nursery:

        async def ask() -> None:
            async with connected(port, authority().cert_pem.bytes()) as client:
                with pytest.raises(HttpError, match=r"closed|broke|connect"):
                    await client.ask("GET", "/", b"")

        nursery.start_soon(ask)
        await gone.wait()
        await server.drain(0.0)
