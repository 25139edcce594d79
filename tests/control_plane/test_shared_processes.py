"""Two control planes on one PostgreSQL, with agents on both: a rollout goes through, also when one is killed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from waiting import until

from control_plane.certificates.authority import utc
from control_plane.certificates.root_files import RootFolder
from control_plane.main import issue_token
from control_plane.settings import load_settings

ROOT = Path(__file__).parents[2]
AGENTS = 40
POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": [443]}]}]}


class Plane:
    """One of the control planes."""

    def __init__(self, folder: Path, database: str, token: str) -> None:
        self.token = token
        reader, writer = os.pipe()
        self._log = folder / "log"
        command = [
            sys.executable, "-m", "podlane", "control-plane", "--state", str(folder), "--database", database,
            "--port", "0", "--agents-port", "0", "--ready-fd", str(writer), "--rate-limit", "0",
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, pass_fds=[writer])
        os.close(writer)
        with os.fdopen(reader) as ready:
            self.port, self.agents_port = (int(ready.readline() or 0) for _ in range(2))
        assert self.port, self._log.read_text()

    def ask(self, method: str, path: str, document: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, f"/v1/tenants/default{path}", json.dumps(document) if document else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status < 300, text
        return json.loads(text) if text else None

    def states(self) -> dict[str, str]:
        """Of all agents, by node."""
        return {each["node"]: each["state"] for each in self.ask("GET", "/agents?limit=1000")["items"]}

    def rollout(self) -> Any:
        return self.ask("GET", "/policies/web/rollout")

    def here(self) -> int:
        """Agents that are connected to it."""
        asked = Request(f"http://127.0.0.1:{self.port}/metrics", headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(asked, timeout=30) as answer:
            found = re.search(r"^podlane_control_plane_agent_connections (\d+)", answer.read().decode(), re.M)
        assert found
        return int(found[1])

    def said(self, text: str) -> bool:
        return text in self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


@contextmanager
def simulated(folder: Path, planes: list[Plane]) -> Iterator[None]:
    """Agents that connect to either."""
    tokens = [planes[0].ask("POST", "/clusters/east/join-tokens", {"expires_in": 3600})["token"] for _ in range(AGENTS)]
    (folder / "tokens").write_text("\n".join(tokens))
    places = ",".join(f"127.0.0.1:{each.agents_port}" for each in planes)
    command = [
        sys.executable, "-m", "podlane", "agent", "--simulate", str(AGENTS), "--join-token", f"@{folder}/tokens",
        "--data", str(folder / "data"), "--control-plane", places,
    ]  # fmt: skip
    with (folder / "agents.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def planes(tmp_path: Path, postgresql_database: Callable[[], str]) -> Iterator[list[Plane]]:
    """Two, with the same CA."""
    database = postgresql_database()
    token = str(issue_token(load_settings({"database": database})))
    running: list[Plane] = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            roots = RootFolder(tmp_path / "ca", "podlane")
            roots.load(utc(time.time()))
            (tmp_path / name / "ca").symlink_to(tmp_path / "ca")
            running.append(Plane(tmp_path / name, database, token))
        yield running
    finally:
        for each in running:
            each.end()


def connected(plane: Plane) -> int:
    return sum(state != "away" for state in plane.states().values())


def workloads(plane: Plane) -> int:
    """That have a lane of the policy, over all agents, as the last seconds have it: each agent says 20."""
    lanes = plane.ask("GET", "/figures?seconds=5&policy=web")["lanes"]
    return sum(each["workloads"] for each in lanes if each["lane"] == "web")


def test_figures_are_those_of_all_processes_that_there_are(tmp_path: Path, planes: list[Plane]) -> None:
    one, two = planes
    one.ask("PUT", "/clusters/east", {})
    one.ask("PUT", "/policies/web/draft", {"document": POLICY})
    one.ask("POST", "/policies/web/publish", {})
    with simulated(tmp_path, planes):
        until("agents are known to both", lambda: connected(one) == connected(two) == AGENTS, patience=60)
        for each in planes:
            until("it sees them all", lambda each=each: workloads(each) > 19 * AGENTS, patience=60)
            assert 0 < each.here() < AGENTS, "and not all are its own"
        two.end(signal.SIGKILL)
        until("its agents have moved", lambda: one.here() == AGENTS, patience=90)
        until("they are there once", lambda: 19 * AGENTS < workloads(one) < 21 * AGENTS, patience=60)


def test_a_rollout_goes_through_over_both_and_when_one_is_killed(tmp_path: Path, planes: list[Plane]) -> None:
    one, two = planes
    one.ask("PUT", "/clusters/east", {})
    with simulated(tmp_path, planes):
        until("agents are known to both", lambda: connected(one) == connected(two) == AGENTS, patience=60)
        one.ask("PUT", "/policies/web/draft", {"document": POLICY})
        one.ask("POST", "/policies/web/publish", {})
        for each in planes:
            until("all have it", lambda each=each: set(each.states().values()) == {"in-sync"}, patience=60)

        plan = {"stages": [{"count": 3}, {"percent": 50}], "soak": 1, "gates": {"away": 0.0}}
        two.ask("PUT", "/policies/web/draft", {"document": {**POLICY, "total": "90Mbit"}})
        two.ask("POST", "/policies/web/publish", {"rollout": plan})
        for each in planes:
            until("it is done", lambda each=each: each.rollout()["state"] == "done", patience=60)
        assert one.said("a rollout goes on") != two.said("a rollout goes on"), "one of them decides"

        plan["gates"] = {"away": 1.0}
        two.ask("PUT", "/policies/web/draft", {"document": {**POLICY, "total": "80Mbit"}})
        two.ask("POST", "/policies/web/publish", {"rollout": plan})
        until("the second step", lambda: two.rollout()["stage"] >= 1, patience=60)
        decides, other = (one, two) if one.said("a rollout goes on") else (two, one)
        decides.end(signal.SIGKILL)
        until("the other goes on", lambda: other.rollout()["state"] == "done", patience=90)
        assert other.said("a rollout goes on")
        until("all have moved", lambda: list(other.states().values()) == ["in-sync"] * AGENTS, patience=60)
