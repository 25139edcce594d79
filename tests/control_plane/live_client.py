"""A control plane's REST port as it is served, and viewers of ``/v1/live`` by the ``websockets`` library."""

from __future__ import annotations

import json
import struct
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fleet_bench import Bench
from waiting import until
from websockets.sync.client import ClientConnection, connect

from control_plane.access.gate import Gate
from control_plane.access.refusals import RefusalRecorder
from control_plane.bootstrap import another_token, new_token
from control_plane.domain.access import Role
from control_plane.domain.commands import IssueToken
from control_plane.http.app import create_app
from control_plane.live.place import LivePlace
from control_plane.live.websocket import WEBSOCKETS

PATIENCE = 20.0


@dataclass
class LiveServer:
    """A server in a thread of its own. ``token`` is the platform's administrator's."""

    bench: Bench
    recorder: RefusalRecorder
    place: LivePlace
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/live"

    def new_token(self, tenant: str = "default", role: Role = Role.VIEWER) -> str:
        token = new_token(tenant)
        self.bench.do(IssueToken(token.id, "", role, token.digest), tenant)
        return str(token)

    @contextmanager
    def viewer(self, token: str | None = None, **options: Any) -> Iterator[Viewer]:
        """Who has logged in by the header."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        with connect(self.url, additional_headers=headers, max_size=2**26, compression=None, **options) as connection:
            viewer = Viewer(connection)
            assert viewer.next("welcome")
            yield viewer


@dataclass
class Binary:
    """A frame of columns."""

    head: dict[str, Any]
    values: list[float]

    @classmethod
    def parse(cls, frame: bytes) -> Binary:
        [size] = struct.unpack_from("<I", frame)
        assert size % 4 == 0
        return cls(json.loads(frame[4 : 4 + size]), list(array("f", frame[4 + size :])))


@dataclass
class Viewer:
    connection: ClientConnection

    def say(self, kind: str, **content: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **content}))

    def subscribe(self, id: int, topic: str, **content: Any) -> None:
        self.say("subscribe", **{"id": id, "tenant": "default", "topic": topic, **content})

    def hear(self) -> dict[str, Any] | Binary:
        frame = self.connection.recv(PATIENCE)
        return json.loads(frame) if isinstance(frame, str) else Binary.parse(frame)

    def next(self, kind: str, id: int | None = None) -> Any:
        """The next message of a kind; others are left out."""
        while True:
            found = self.hear()
            head = found.head if isinstance(found, Binary) else found
            if head["type"] == kind and id in (None, head.get("id")):
                return found

    def window(self, condition: Callable[[dict[str, Any]], object], id: int | None = None) -> dict[str, Any]:
        """The next window that is so."""
        while not condition(found := self.next("window", id)):
            pass
        return dict(found)


@contextmanager
def live_server(bench: Bench, prometheus: str = "", **options: Any) -> Iterator[LiveServer]:
    """``options`` are the gate's."""
    recorder = RefusalRecorder(bench.plane)
    gate = Gate(bench.plane, recorder, requests=0, **options)
    app = create_app(bench.plane, bench.fleet, gate=gate, prometheus=prometheus)
    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2, **WEBSOCKETS
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="live server")
    thread.start()
    try:
        until("the server listens", lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield LiveServer(bench, recorder, app.state.live, port, str(another_token(bench.plane)))
    finally:
        server.should_exit = True
        thread.join()
