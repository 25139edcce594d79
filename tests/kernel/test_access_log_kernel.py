"""The access log of a real sidecar: one line per connection, whoever relays it, and what it costs nobody."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from lab import connect
from sidecars import RunningSidecar, refused_sidecar, start_sidecar
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
classes:
  - {name: api, rate: 20Mbit, match: [{host: api.example.com}, {sni: api.example.com}]}
  - {name: slow, rate: 1Mbit, ceil: 8Mbit, match: {host: slow.example.com}}
"""


@pytest.fixture(autouse=True)
def web(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")


def start(topology: PodNodeServer, folder: Path, *options: str) -> tuple[RunningSidecar, Callable[[], list[Any]]]:
    """A sidecar, and the way to what its access log has."""
    path = folder / "access.jsonl"
    sidecar = start_sidecar(
        topology.pod, POLICY, folder, "--access-log", "connections", "--access-log-file", str(path), *options
    )
    return sidecar, lambda: [json.loads(line) for line in path.read_text().splitlines()]


def curl(topology: PodNodeServer, *arguments: str) -> None:
    topology.pod.run(["curl", "-sS", "-k", "-o", "/dev/null", "--max-time", "15", *arguments])


def ask(topology: PodNodeServer, name: str = "api.example.com") -> None:
    curl(topology, "-H", f"Host: {name}", f"http://{topology.server_ipv4}/who")


def lines_when(read: Callable[[], list[Any]], count: int) -> list[Any]:
    return until(f"{count} lines", lambda: found if len(found := read()) >= count else None)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_line_says_who_where_what_and_how_it_ended(topology: PodNodeServer, tmp_path: Path) -> None:
    _, read = start(topology, tmp_path)
    ask(topology)
    [line] = lines_when(read, 1)
    pod = str(topology.pod_link.a.ipv4)
    port = line["client"]["port"]
    assert line["client"] == {"address": pod, "ip": pod, "port": port}
    assert line["source"] == {**line["client"], "bytes": line["source"]["bytes"]}
    server = topology.server_ipv4
    assert line["destination"] == {
        "address": server, "ip": server, "port": 80, "domain": "api.example.com",
        "bytes": line["destination"]["bytes"],
    }  # fmt: skip
    assert 70 < line["source"]["bytes"] < 200
    assert line["network"] == {
        "transport": "tcp", "type": "ipv4", "direction": "egress", "protocol": "http",
        "bytes": line["source"]["bytes"] + line["destination"]["bytes"],
    }  # fmt: skip
    assert line["url"] == {"domain": "api.example.com"}
    assert line["podlane"] == {"class": "api", "protocol": "http1", "throttled": 0}
    event = line["event"]
    assert (event["kind"], event["type"], event["outcome"]) == ("event", ["connection", "end"], "success")
    assert 0 < event["duration"] < 10e9
    taken = (moment(event["end"]) - moment(event["start"])).total_seconds()
    assert taken == pytest.approx(event["duration"] / 1e9, abs=2e-6)
    assert line["@timestamp"] == event["end"]

    curl(topology, "--resolve", f"api.example.com:443:{topology.server_ipv4}", "https://api.example.com/who")
    [_, tls] = lines_when(read, 2)
    assert tls["tls"] == {"client": {"server_name": "api.example.com"}}
    assert tls["network"]["protocol"] == "tls"
    assert tls["destination"]["domain"] == "api.example.com"
    assert "url" not in tls


def test_what_fails_says_why(topology: PodNodeServer, tmp_path: Path) -> None:
    _, read = start(topology, tmp_path)
    client = connect(topology.pod, topology.server_ipv4, 81)  # nobody listens there
    client.sendall(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
    with pytest.raises(ConnectionError):
        client.recv(1)
    [line] = lines_when(read, 1)
    assert (line["event"]["outcome"], line["event"]["reason"]) == ("failure", "refused")
    assert (line["podlane"]["class"], line["source"]["bytes"]) == ("api", 0)


def test_the_time_that_an_upload_waits_for_its_class_is_told(topology: PodNodeServer, tmp_path: Path) -> None:
    _, read = start(topology, tmp_path)
    body = tmp_path / "body"
    body.write_bytes(random.Random(7).randbytes(6_000_000))
    for name in ("slow.example.com", "api.example.com"):
        curl(topology, "-T", str(body), "-H", f"Host: {name}", f"http://{topology.server_ipv4}/f")
    slow, fast = lines_when(read, 2)
    for line in (slow, fast):
        assert line["source"]["bytes"] > 6_000_000
        assert 0 <= line["podlane"]["throttled"] <= line["event"]["duration"]
    # 6 MB take 6 s at 8 Mbit/s; the last part of it, which the kernel has taken, is not waited for.
    assert slow["podlane"]["throttled"] > 0.5 * slow["event"]["duration"]
    assert slow["podlane"]["throttled"] > 3e9
    assert fast["podlane"]["throttled"] < slow["podlane"]["throttled"] / 3


def test_every_connection_has_its_line_and_no_line_is_torn(topology: PodNodeServer, tmp_path: Path) -> None:
    """Workers share a pipe, which is what a container's standard output is."""
    ours, theirs = os.pipe()
    process = topology.pod.popen(
        [sys.executable, "-m", "podlane", "sidecar", "--policy", str(_policy(tmp_path)), "--workers", "2"],
        stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, "PODLANE_ACCESS_LOG": "connections"},
    )  # fmt: skip
    os.close(theirs)
    try:
        until(
            "readiness",
            lambda: topology.pod.run([sys.executable, "-m", "podlane", "ready"], check=False).returncode == 0,
        )
        clients = [connect(topology.pod, topology.server_ipv4, 80) for _ in range(40)]
        ports = [client.getsockname()[1] for client in clients]

        def use(client: socket.socket) -> None:
            client.sendall(b"GET /who HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
            while client.recv(4096):
                pass
            client.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, clients))
        process.terminate()
        with os.fdopen(ours) as stream:
            lines = [json.loads(line) for line in stream]
        assert process.wait(30) == 0
        assert sorted(line["client"]["port"] for line in lines) == sorted(ports)
    finally:
        process.kill()
        process.communicate()


def _policy(folder: Path) -> Path:
    path = folder / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_a_file_that_is_moved_away_is_made_anew(topology: PodNodeServer, tmp_path: Path) -> None:
    _, read = start(topology, tmp_path)
    ask(topology)
    lines_when(read, 1)
    (tmp_path / "access.jsonl").rename(tmp_path / "access.jsonl.1")
    ask(topology, "slow.example.com")
    until("the new file", (tmp_path / "access.jsonl").exists)
    [line] = lines_when(read, 1)
    assert line["podlane"]["class"] == "slow"
    assert len((tmp_path / "access.jsonl.1").read_text().splitlines()) == 1


def test_a_reader_that_stalls_stops_no_traffic(topology: PodNodeServer, tmp_path: Path) -> None:
    fifo = tmp_path / "access.jsonl"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)  # somebody who reads nothing
    start(topology, tmp_path)
    for _ in range(8):
        # A pipe holds 64 KiB, some 90 lines.
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(topology), range(24)))
    os.close(held)


def test_stepping_aside_the_choice_is_logged(topology: PodNodeServer, tmp_path: Path) -> None:
    _, read = start(topology, tmp_path, "--datapath", "step-aside")
    ask(topology, "slow.example.com")
    [line] = lines_when(read, 1)
    assert (line["event"]["type"], line["event"]["outcome"]) == (["connection", "start"], "unknown")
    assert line["podlane"] == {"class": "slow", "protocol": "http1"}
    assert line["destination"]["domain"] == "slow.example.com"
    assert "bytes" not in line["source"]


def test_connections_that_end_with_the_sidecar_have_their_line(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar, read = start(topology, tmp_path, "--grace", "0s")
    client = connect(topology.pod, topology.server_ipv4, 80)
    client.sendall(b"GET /who HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
    assert client.recv(4096)
    assert sidecar.stop() == 0
    [line] = read()
    assert (line["event"]["outcome"], line["event"]["reason"]) == ("failure", "cut")


def test_a_place_that_cannot_be_written_is_refused_at_once(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = str(_policy(tmp_path))
    code, said = refused_sidecar(
        topology.pod, "--policy", policy, "--access-log", "connections", "--access-log-file", "/nowhere/access.jsonl"
    )
    assert code == 2
    assert "--access-log-file: /nowhere/access.jsonl cannot be written: No such file or directory." in said
    code, said = refused_sidecar(topology.pod, "--policy", policy, "--access-log-file", str(tmp_path / "x"))
    assert code == 2
    assert "There is no access log to write. Add --access-log connections" in said
