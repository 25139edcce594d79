"""Carries out a run: in each round a fresh control plane, and fresh agents."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.admission.load import percentile
from benchmarks.errors import BenchmarkError, CandidateError
from benchmarks.fleet.agents import FAILING
from benchmarks.fleet.figures import (
    CHANGE,
    COMMANDS,
    FLEET,
    JOIN,
    MEMORY,
    POSTGRESQL,
    READS,
    REPORTS,
    SQLITE,
    STORM,
    TAKEN_BACK,
)
from benchmarks.fleet.ground import Agents, RestClient, Server
from benchmarks.fleet.postgresql import MISSING, postgresql, programs
from benchmarks.measured import Measured
from benchmarks.processes import resident_mib
from benchmarks.progress import Progress
from benchmarks.results import Results, Sample

_READS: Final = 200
_FIRST_OF_ALL: Final = 3.0
"""Seconds for agents that have just connected to be at rest."""
_CLASSES: Final = ("web", "bulk", "database", "cache")


@dataclass(frozen=True, slots=True)
class Plan:
    """``taken_back``: agents of the rollout that fails. ``seconds``: how long reports and commands are measured."""

    rounds: int
    agents: int
    taken_back: int
    changes: int
    seconds: float
    database: str


@dataclass(frozen=True, slots=True)
class Cpus:
    """Of the control plane, and of everybody else, as ``taskset -c`` has them."""

    control_plane: str
    agents: str


def policy(total: str) -> dict[str, Any]:
    """Some 500 bytes."""
    classes = [{"name": name, "rate": "1Mbit", "match": {"host": f"{name}.example.com"}} for name in _CLASSES]
    return {"total": total, "classes": classes}


class Runner:
    """Raises :class:`BenchmarkError`."""

    def __init__(self, cpus: Cpus, results: Results, progress: Progress, path: Path, plan: Plan) -> None:
        self._cpus = cpus
        self._results = results
        self._progress = progress
        self._path = path
        self._plan = plan
        self._round = 0

    def run(self) -> None:
        """All of it."""
        databases = [SQLITE, *([POSTGRESQL] if programs() is not None else [])]
        self._progress.begin(self._plan.rounds * (7 + len(databases)))
        if POSTGRESQL not in databases:
            self._progress.say(f"Commands on PostgreSQL are left out. {MISSING}")
        for number in range(1, self._plan.rounds + 1):
            self._round = number
            for name in databases:
                self._try(COMMANDS[name], lambda name=name: self._commands(name))  # type: ignore[misc]
            self._fleet()
            self._results.write(self._path)

    def _commands(self, name: str) -> dict[str, float]:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="podlane-bench-"))
            url = f"sqlite:{folder}/events.db"
            if name == POSTGRESQL:
                url, _ = stack.enter_context(postgresql())
            command = [sys.executable, "-m", "benchmarks.fleet.commands", url, str(self._plan.seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CandidateError(done.stderr.strip()[-300:])
        values: dict[str, float] = json.loads(done.stdout)
        return values

    def _fleet(self) -> None:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podlane-bench-")))
            url = stack.enter_context(postgresql())[0] if self._plan.database == POSTGRESQL else ""
            server = stack.enter_context(Server(folder, self._cpus.control_plane, url))
            server.start()
            many = self._agents(folder, server, "all", self._plan.agents)
            with many:
                self._show(JOIN)
                self._keep(JOIN, self._join(server, many))
                self._try(CHANGE, lambda: self._changes(server, many))
                self._try(REPORTS, lambda: self._reports(server, many))
                self._try(READS, lambda: self._reads(server, many))
                self._try(STORM, lambda: self._storm(server, many))
                self._try(MEMORY, lambda: self._memory(server, many))
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podlane-bench-")))
            url = stack.enter_context(postgresql())[0] if self._plan.database == POSTGRESQL else ""
            server = stack.enter_context(Server(folder, self._cpus.control_plane, url))
            server.start()
            some = stack.enter_context(self._agents(folder, server, "some", self._plan.taken_back))
            self._try(TAKEN_BACK, lambda: self._taken_back(server, some))

    def _agents(self, folder: Path, server: Server, name: str, count: int) -> Agents:
        place = folder / name
        place.mkdir()
        return Agents(place, self._cpus.agents, count, server.agents_port, place / "tokens")

    def _join(self, server: Server, agents: Agents) -> dict[str, float]:
        cpu, began = server.cpu_seconds(), time.monotonic()
        client = server.client()
        client.ask("PUT", "/clusters/east", {})
        issued = (client.ask("POST", "/clusters/east/join-tokens", {})["token"] for _ in range(agents.count))
        agents.tokens.write_text("".join(f"{token}\n" for token in issued))
        agents.start()
        agents.wait("agents that have joined", lambda: bool(agents.joined))
        took, cpu = time.monotonic() - began, server.cpu_seconds() - cpu
        agents.wait_connected()
        return {
            "per_s": agents.count / took,
            "cpu_ms": cpu / agents.count * 1e3,
            "agents_cpu_ms": agents.joined["joined_cpu_s"] / agents.count * 1e3,
        }

    def _changes(self, server: Server, agents: Agents) -> dict[str, float]:
        client = server.client()
        agents.wait_having(_publish(client, "50Mbit")[0])
        time.sleep(_FIRST_OF_ALL)
        before, ours, theirs = self._costs(server, agents)
        took: list[Mapping[str, float]] = []
        for number in range(self._plan.changes):
            revision, at = _publish(client, f"{51 + number}Mbit")
            had = agents.wait_having(revision)
            took.append({key: had[key] - at for key in ("p50", "p99", "last")})
        after, ours_then, theirs_then = self._costs(server, agents)
        client.close()
        # What reports cost meanwhile is measured apart, and here it would depend on how long the benchmark waits.
        idle = self._reports(server, agents)
        seconds = after - before
        return {
            "p50_s": percentile([each["p50"] for each in took], 0.5),
            "p99_s": percentile([each["p99"] for each in took], 0.5),
            "last_s": percentile([each["last"] for each in took], 0.5),
            "cpu_s": max(0.0, ours_then - ours - idle["cores"] * seconds) / len(took),
            "agents_cpu_s": max(0.0, theirs_then - theirs - idle["agents_cores"] * seconds) / len(took),
        }

    def _reports(self, server: Server, agents: Agents) -> dict[str, float]:
        before, ours, theirs = self._costs(server, agents)
        time.sleep(self._plan.seconds)
        after, ours_then, theirs_then = self._costs(server, agents)
        return {
            "cores": (ours_then - ours) / (after - before),
            "agents_cores": (theirs_then - theirs) / (after - before),
        }

    def _reads(self, server: Server, agents: Agents) -> dict[str, float]:
        del agents
        client = server.client()
        paths = {
            "policy_p95_ms": "/policies/web", "page_p95_ms": "/agents?limit=100",
            "failed_p95_ms": "/agents?limit=100&state=failed",
        }  # fmt: skip
        values = {}
        for key, path in paths.items():
            took = []
            for _ in range(_READS):
                began = time.monotonic()
                client.ask("GET", path)
                took.append(time.monotonic() - began)
            values[key] = percentile(took, 0.95) * 1e3
        client.close()
        return values

    def _storm(self, server: Server, agents: Agents) -> dict[str, float]:
        server.end(signal.SIGKILL)
        began, theirs = time.monotonic(), agents.cpu_seconds()
        server.start()
        self._wait_in_sync(server, agents)
        return {
            "seconds": time.monotonic() - began,
            "cpu_s": server.cpu_seconds(),
            "agents_cpu_s": agents.cpu_seconds() - theirs,
        }

    def _memory(self, server: Server, agents: Agents) -> dict[str, float]:
        agents.end()
        server.end(signal.SIGTERM)
        server.start()
        client = server.client()
        client.ask("GET", "/agents?limit=1")
        start = resident_mib([server.pid])
        agents.start()
        agents.wait_connected()
        agents.wait_having(_publish(client, "99Mbit")[0])
        time.sleep(_FIRST_OF_ALL)
        return {"start_mib": start, "each_kib": (resident_mib([server.pid]) - start) / agents.count * 1024}

    def _taken_back(self, server: Server, agents: Agents) -> dict[str, float]:
        self._join(server, agents)
        client = server.client()
        agents.wait_having(_publish(client, "50Mbit")[0])
        plan = {"stages": [{"percent": 100}], "soak": 60, "gates": {"failed": 0}}
        failing, _ = _publish(client, FAILING, plan)
        agents.wait("a failure", lambda: agents.told["failed"].get(str(failing)))
        failed = agents.told["failed"][str(failing)]
        agents.wait("a rollback", lambda: client.ask("GET", "/policies/web/rollout")["state"] == "taken back")
        # Which is an event, and so the next revision.
        had = agents.wait_having(client.ask("GET", "/policies/web/progress")["position"])
        client.close()
        return {"seconds": had["last"] - failed}

    def _wait_in_sync(self, server: Server, agents: Agents) -> None:
        client: RestClient | None = None

        def there() -> bool:
            nonlocal client
            client = client or server.client()
            found = client.ask("GET", "/policies/web/progress")
            if found["behind"] + found["away"] + found["failed"]:
                time.sleep(0.25)  # each look goes through all of them
                return False
            return bool(found["agents"] == found["in_force"] == agents.count)

        agents.wait("all in sync", there)

    @staticmethod
    def _costs(server: Server, agents: Agents) -> tuple[float, float, float]:
        return time.monotonic(), server.cpu_seconds(), agents.cpu_seconds()

    def _show(self, measured: Measured) -> None:
        self._progress.show(self._round, FLEET, measured.name)

    def _try(self, measured: Measured, measure: Callable[[], Mapping[str, float]]) -> None:
        self._show(measured)
        try:
            values = measure()
        except BenchmarkError as error:
            self._put(measured, Sample(self._round, FLEET, measured.name, {}, failure=str(error)))
        else:
            self._keep(measured, values)

    def _keep(self, measured: Measured, values: Mapping[str, float]) -> None:
        self._put(measured, Sample(self._round, FLEET, measured.name, values))

    def _put(self, measured: Measured, sample: Sample) -> None:
        self._results.samples.append(sample)
        self._progress.done(self._round, FLEET, measured, sample)


def _publish(client: RestClient, total: str, rollout: Mapping[str, Any] | None = None) -> tuple[int, float]:
    """The revision of what agents are to have, and when that was answered (seconds of CLOCK_MONOTONIC)."""
    client.ask("PUT", "/policies/web/draft", {"document": policy(total)})
    client.ask("POST", "/policies/web/publish", {"rollout": rollout})
    at = time.monotonic()
    return client.ask("GET", "/policies/web/progress")["position"], at
