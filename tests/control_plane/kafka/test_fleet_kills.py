"""Store, broker and control planes are killed in random order under load: nothing is lost or invented, and order is kept.

Clients repeat a request with its key until it is answered, by either of two control planes.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
from broker import Broker, free_port
from postgresql_server import PostgresServer, server_programs
from waiting import until

from control_plane.main import issue_token
from control_plane.outbox.messages import TopicReader
from control_plane.settings import load_settings
from control_plane.store.event_store import open_store
from control_plane.store.records import StoredEvent

ROOT = Path(__file__).parents[3]
TENANTS = ("bank", "press", "shop")
PATIENCE = 120.0
KINDS = ("store", "publisher", "process", "broker")
WEIGHTS = (4, 4, 3, 1)
"""A killed broker takes a quarter of a minute to take messages again."""


class Plane:
    """A control plane that keeps its port when it is killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._log = folder / f"log-{self.port}"
        self._command = [sys.executable, "-m", "podlane", "control-plane", "--port", str(self.port), *options]
        self._command += ["--agents-port", "0", "--state", str(folder / str(self.port))]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=ROOT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def health(self) -> dict[str, Any]:
        """Empty: it does not answer."""
        with suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/healthz")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        return {}

    def publishes(self) -> bool:
        return any((each["name"], each["state"]) == ("kafka", "up") for each in self.health().get("dependencies", []))


class Client:
    """Gives a tenant the titles 1, 2, 3 ...; each until somebody says that it is done."""

    def __init__(self, tenant: str, token: str, planes: list[Plane]) -> None:
        self.done = 0
        self.retries = 0
        self._tenant, self._token, self._planes = tenant, token, planes
        self._ending = Flag()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def check(self) -> None:
        """Fails once an answer was not one of those that there may be."""
        assert self._thread.is_alive() or self._ending.is_set(), "see the warnings at the end"

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        chance = random.Random(self._tenant)
        while not self._ending.is_set():
            number = self.done + 1
            headers = {
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "Idempotency-Key": f"{self._tenant}-{number}",
            }
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", chance.choice(self._planes).port, timeout=30)
                connection.request("PUT", f"/v1/tenants/{self._tenant}", json.dumps({"title": str(number)}), headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                connection = None
                self.retries += 1
                self._ending.wait(0.05)
                continue
            if answer.status == 200:
                self.done = number
            else:
                assert answer.status == 503, text
                self.retries += 1
                self._ending.wait(0.05)


@pytest.fixture
def postgres_to_kill() -> Iterator[PostgresServer]:
    if server_programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="podlane-pg-") as name:
        server = PostgresServer(Path(name))
        server.start()
        yield server
        server.stop()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.nightly)])
def test_nothing_is_lost_whoever_is_killed(
    kafka: Broker, topic: str, postgres_to_kill: PostgresServer, tmp_path: Path, kills: int
) -> None:
    database = postgres_to_kill.create("fleet")
    token = str(issue_token(load_settings({"database": database})))
    options = ["--database", database, "--kafka", kafka.servers, "--kafka-topic", topic]
    planes = [Plane(tmp_path, *options) for _ in range(2)]
    chance = random.Random(19)
    order = [*KINDS, *chance.choices(KINDS, WEIGHTS, k=kills - len(KINDS))]
    chance.shuffle(order)
    clients: list[Client] = []
    try:
        for plane in planes:
            plane.start()
        until("the control planes", lambda: all(plane.health().get("serving") for plane in planes), patience=PATIENCE)
        clients = [Client(tenant, token, planes) for tenant in TENANTS]
        for kind in order:
            wanted = [client.done + chance.randrange(1, 30) for client in clients]
            until(
                f"commands to go on, before the {kind} is killed",
                lambda wanted=wanted: reached(clients, wanted),
                patience=PATIENCE,
            )
            kill(kind, planes, kafka, postgres_to_kill)
        ends = [client.done + 10 for client in clients]
        until(
            "commands to go on, at the end",
            lambda: reached(clients, ends),
            patience=PATIENCE,
        )
        for client in clients:
            client.stop()
        kafka.until_ready()
        check(database, topic, kafka, clients)
    finally:
        for client in clients:
            client.stop()
        for plane in planes:
            plane.kill()


def check(database: str, topic: str, kafka: Broker, clients: list[Client]) -> None:
    """What was answered is in the log, once and in order, and so is all of that on the topic."""
    with closing(open_store(database)) as store:
        heads = store.heads()

        def published() -> bool:
            with store.database.reading() as execute:
                noted = dict(execute("SELECT tenant, position FROM published"))
            return noted == {tenant: head.position for tenant, head in heads.items()}

        until("all to be published", published, patience=PATIENCE)
        logs = {tenant: list(store.read_all(tenant)) for tenant in heads}
        for tenant in heads:
            store.verify(tenant)
        for tenant, client in zip(TENANTS, clients, strict=True):
            titles = [int(event.data["title"]) for event in logs[tenant]]
            assert titles == list(range(1, len(titles) + 1)), f"{tenant}: lost, twice or out of order"
            assert len(titles) in (client.done, client.done + 1), f"{tenant}: lost or invented"
    values = kafka.values(topic)
    reader, seen = TopicReader(), dict[str, list[StoredEvent]]()
    for value in values:
        if (event := reader.take(value)) is not None:
            seen.setdefault(event.tenant, []).append(event)
    assert seen == logs
    total = sum(map(len, logs.values()))
    print(f"{total} events, {len(values) - total} twice, {sum(c.retries for c in clients)} retries")


def reached(clients: list[Client], wanted: list[int]) -> bool:
    for client in clients:
        client.check()
    return all(client.done >= least for client, least in zip(clients, wanted, strict=True))


def kill(kind: str, planes: list[Plane], broker: Broker, store: PostgresServer) -> None:
    """Kill one, and start it again."""
    if kind == "store":
        store.kill()
        store.start()
    elif kind == "broker":
        broker.kill()
        broker.begin()
    else:
        publishing = next((plane for plane in planes if plane.publishes()), planes[0])
        victim = publishing if kind == "publisher" else next(plane for plane in planes if plane is not publishing)
        victim.kill()
        victim.start()
