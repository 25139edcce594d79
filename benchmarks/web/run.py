"""Carries out a run: one control plane with its agents, and a fresh browser for each measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Error, sync_playwright

from benchmarks.errors import BenchmarkError
from benchmarks.fleet.ground import Agents, Server
from benchmarks.measured import Measured
from benchmarks.progress import Progress
from benchmarks.results import Results, Sample
from benchmarks.web.browser import NO_LIGHTHOUSE, Chromium, lighthouse_version
from benchmarks.web.figures import FLEET, HEAP, LIGHTHOUSE, LIVE, PAGES, THREAD, VIEW, WEB

LANES: Final = tuple(f"lane-{n:02}" for n in range(1, 21))
_SLOWED: Final = 4
_WARM: Final = 90.0
"""Seconds: Live keeps the last minute here."""
_PATHS: Final = {LIVE: "/t/default/live?policy=web&seconds=60", FLEET: "/t/default/fleet"}
_SELECTORS: Final = {LIVE: ".minis .u-wrap canvas", FLEET: ".agents [role=row] a"}


@dataclass(frozen=True, slots=True)
class Plan:
    """``seconds``: how long a main thread is watched. ``minutes``: for how long Live is left open."""

    rounds: int
    agents: int
    seconds: float
    minutes: float
    lighthouse: bool


@dataclass(frozen=True, slots=True)
class Cpus:
    """Of the control plane, and of the agents, as ``taskset -c`` has them. The browser takes what there is."""

    control_plane: str
    agents: str


def policy() -> dict[str, Any]:
    """With twenty lanes."""
    classes = [{"name": name, "rate": "20Mbit", "ceil": "200Mbit", "match": {"host": f"{name}.test"}} for name in LANES]
    return {"total": "1Gbit", "classes": classes}


class Runner:
    """Raises :class:`BenchmarkError`."""

    def __init__(self, cpus: Cpus, results: Results, progress: Progress, path: Path, plan: Plan) -> None:
        self._cpus = cpus
        self._results = results
        self._progress = progress
        self._path = path
        self._plan = plan
        self._round = 1

    def run(self) -> None:
        """All of it."""
        plan = self._plan
        measured = plan.lighthouse and lighthouse_version() is not None
        if plan.lighthouse and not measured:
            self._progress.say(f"It is left out. {NO_LIGHTHOUSE}")
        self._progress.begin(plan.rounds * len(PAGES) * (3 if measured else 2) + 1)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podlane-bench-")))
            server = stack.enter_context(Server(folder, self._cpus.control_plane))
            server.start()
            stack.enter_context(self._fleet(folder, server))
            programs = stack.enter_context(sync_playwright())
            browser = Chromium(programs, f"http://127.0.0.1:{server.port}", server.token)
            for number in range(1, plan.rounds + 1):
                self._round = number
                for page in PAGES:
                    path, selector = _PATHS[page], _SELECTORS[page]
                    self._try(VIEW[page], partial(browser.view, path, selector))
                    self._try(THREAD[page], partial(browser.main_thread, path, selector, _SLOWED, plan.seconds))
                    if measured:
                        self._try(LIGHTHOUSE[page], partial(browser.lighthouse, path))
                self._results.write(self._path)
            warm = min(_WARM, plan.minutes * 60)
            self._try(HEAP, partial(browser.heap, _PATHS[LIVE], _SELECTORS[LIVE], warm, plan.minutes))

    def _fleet(self, folder: Path, server: Server) -> Agents:
        """Agents that have joined, with a policy in force."""
        self._progress.show(1, WEB, f"{self._plan.agents:,} agents join")
        client = server.client()
        client.ask("PUT", "/clusters/east", {})
        place = folder / "agents"
        place.mkdir()
        agents = Agents(place, self._cpus.agents, self._plan.agents, server.agents_port, place / "tokens", LANES)
        issued = (client.ask("POST", "/clusters/east/join-tokens", {})["token"] for _ in range(agents.count))
        agents.tokens.write_text("".join(f"{token}\n" for token in issued))
        agents.start()
        try:
            agents.wait("agents that have joined", lambda: bool(agents.joined))
            agents.wait_connected()
            client.ask("PUT", "/policies/web/draft", {"document": policy()})
            client.ask("POST", "/policies/web/publish", {})
            agents.wait_having(client.ask("GET", "/policies/web/progress")["position"])
        except BaseException:  # also if it is interrupted: ten thousand agents would stay behind
            agents.end()
            raise
        client.close()
        return agents

    def _try(self, measured: Measured, measure: Callable[[], Mapping[str, float]]) -> None:
        self._progress.show(self._round, WEB, measured.name)
        try:
            sample = Sample(self._round, WEB, measured.name, measure())
        except BenchmarkError as error:
            sample = Sample(self._round, WEB, measured.name, {}, failure=str(error))
        except Error as error:
            sample = Sample(self._round, WEB, measured.name, {}, failure=error.message.splitlines()[0])
        self._results.samples.append(sample)
        self._progress.done(self._round, WEB, measured, sample)
