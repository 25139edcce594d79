"""What probes are told, and which dependency is away since when."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from starlette.testclient import TestClient
from waiting import until

from control_plane.access.provider import IdentityProvider, ProviderError, ProviderSettings
from control_plane.bootstrap import first_token
from control_plane.domain.rollout import PrometheusGate
from control_plane.fleet.rollout_driver import PrometheusGates
from control_plane.health import Dependency
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store


class Metadata(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"issuer": "http://127.0.0.1:%d", "jwks_uri": ""}' % self.server.server_port)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def unused() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_probes_are_told_what_is_away_since_when(tmp_path: Path) -> None:
    store = open_store(f"sqlite:{tmp_path / 'events.db'}")
    plane = ControlPlane(store)
    first_token(plane)
    clock = [1_800_000_000.0]
    kafka = Dependency("kafka", lambda: clock[0])
    api = TestClient(create_app(plane, dependencies=[kafka]))
    kafka.is_up()
    clock[0] += 60
    kafka.is_away("no broker")
    clock[0] += 60
    kafka.is_away("still none")
    for path in ("/healthz", "/readyz"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["serving"]) == (200, True), "it serves without Kafka"
        database, other = answer.json()["dependencies"]
        assert (database["name"], database["state"]) == ("database", "up")
        since = datetime.fromtimestamp(1_800_000_060, UTC).isoformat(timespec="seconds")
        assert other == {"name": "kafka", "state": "away", "since": since}
        assert "broker" not in answer.text, "what is wrong may name hosts"
    store.close()


def test_an_identity_provider_is_away_until_it_answers(unused: int) -> None:
    def provider(port: int) -> IdentityProvider:
        return IdentityProvider(ProviderSettings(f"http://127.0.0.1:{port}", "podlane", "podlane", "", "groups"))

    away = provider(unused)
    assert away.dependency.state.up is None, "nobody has asked it"
    with pytest.raises(ProviderError):
        away.endpoint("token_endpoint")
    assert away.dependency.state.up is False
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = provider(server.server_port)
        assert there.endpoint("token_endpoint") == ""
        assert there.dependency.state.up
        server.shutdown()


def test_a_prometheus_that_does_not_answer_is_away(unused: int) -> None:
    gates = PrometheusGates(f"http://127.0.0.1:{unused}")
    gates.answer(PrometheusGate("up", 1))
    until("it is known to be away", lambda: gates.dependency.state.up is False)
    gates.close()
