"""``podlane top`` and what it asks for, with a real sidecar, real traffic and a real terminal."""

from __future__ import annotations

import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import connect
from sidecars import RunningSidecar, start_sidecar
from terminal import Terminal, on_terminal
from waiting import until
from webserver import WebServer, start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
classes:
  - {name: api, rate: 20Mbit, ceil: 80Mbit, priority: 1, match: [{host: api.example.com}, {sni: api.example.com}]}
  - {name: slow, rate: 1Mbit, ceil: 4Mbit, match: {host: slow.example.com}}
  - {name: backup, rate: 1Mbit, match: {port: 873, cidr: 10.0.0.0/8}}
"""


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


@pytest.fixture
def sidecar(topology: PodNodeServer, tmp_path: Path) -> RunningSidecar:
    return start_sidecar(topology.pod, POLICY, tmp_path)


@pytest.fixture
def upload(topology: PodNodeServer, web: WebServer, sidecar: RunningSidecar, tmp_path: Path) -> Iterator[None]:  # noqa: ARG001
    """An upload that goes on, in class "slow", which it fills."""
    body = tmp_path / "body"
    body.write_bytes(random.Random(3).randbytes(60_000_000))
    process = topology.pod.popen(
        ["curl", "-sS", "-T", str(body), "-H", "Host: slow.example.com", f"http://{topology.server_ipv4}/f"]
    )
    # Until it is what its class allows, and not its burst: then it stays.
    until("a full class", lambda: sidecar.classes()["slow"]["backlog_packets"] > 0)
    until("a steady rate", lambda: 0 < sidecar.classes()["slow"]["current_rate_bits_per_second"] < 4_200_000)
    yield
    process.kill()
    process.wait()


def top(topology: PodNodeServer, *options: str) -> list[str]:
    return [sys.executable, "-m", "podlane", "top", "--netns", topology.pod.namespace.name, *options]


def told(topology: PodNodeServer, *options: str) -> str:
    done = subprocess.run(top(topology, *options), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answered(topology: PodNodeServer, name: str = "api.example.com") -> Any:
    client = connect(topology.pod, topology.server_ipv4, 80)
    client.sendall(f"GET /who HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    return client


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("upload")
@pytest.mark.parametrize("way", [[], ["--interface", "eth0"]], ids=["admin port", "interface"])
def test_numbers_are_those_of_the_kernel(topology: PodNodeServer, way: list[str]) -> None:
    lines = [json.loads(line) for line in told(topology, *way, "--json", "--count", "2").splitlines()]
    assert len(lines) == 2
    assert lines[1]["total_bits_per_second"] == 100_000_000
    handles = {"slow": "1:102", "api": "1:101"}
    by_name = {each["name"]: each for each in lines[1]["classes"]}
    slow, api = (by_name.get(name) or by_name[handles[name]] for name in ("slow", "api"))
    assert by_name["default"]["ceil_bits_per_second"] == 100_000_000
    assert (slow["rate_bits_per_second"], slow["ceil_bits_per_second"]) == (1_000_000, 4_000_000)
    # Link headers count, so a full class sends what its ceil is; a busy machine may keep it from that.
    assert 0.5 < slow["of_ceil"] < 1.1
    assert slow["now_bits_per_second"] == pytest.approx(slow["of_ceil"] * 4_000_000, rel=0.001)
    assert 0.5 < slow["borrowed"] < 0.9, "three of its four Mbit/s are lent to it"
    assert slow["throttled"] > 0.7
    assert slow["packets_per_second"] > 100
    assert slow["overlimits_per_second"] > 1
    assert slow["backlog_bytes"] > 0
    assert slow["backlog_seconds"] == pytest.approx(slow["backlog_bytes"] * 8 / 1_000_000, rel=0.01)
    assert api["throttled"] == api["now_bits_per_second"] == 0
    assert lines[1]["all"]["now_bits_per_second"] >= slow["now_bits_per_second"]
    assert slow["connections"] == (None if way else 1)


@pytest.mark.usefixtures("upload")
def test_one_table(topology: PodNodeServer) -> None:
    title, gap, heads, *rows = told(topology, "--once", "--sort", "now").splitlines()
    assert title.startswith("eth0  127.0.0.1:15109  total 100Mbit  used ")
    assert gap.strip() == ""
    shown = "class prio rate ceil now of ceil borrowed pkt/s drop/s backlog throttled conns new/s"
    assert heads.split() == shown.split()
    names = [row.split()[0] for row in rows]
    assert (names[0], names[-1], sorted(names[1:-1])) == ("slow", "all", ["api", "backup", "default"])
    assert "\x1b" not in title + heads + "".join(rows)


@pytest.mark.usefixtures("web")
def test_connections_are_told_with_their_class_and_name(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    clients = [answered(topology), answered(topology, "slow.example.com"), answered(topology, "other.example.com")]
    document = json.loads(told(topology, "--connections", "--json", "--count", "1"))
    assert document["active"] == 3
    assert [(c["class"], c["name"], c["protocol"], c["state"]) for c in document["connections"]] == [
        ("default", "other.example.com", "http1", "relaying"),
        ("slow", "slow.example.com", "http1", "relaying"),
        ("api", "api.example.com", "http1", "relaying"),
    ]
    for client, seen in zip(reversed(clients), document["connections"], strict=True):
        assert seen["client"] == "{}:{}".format(*client.getsockname())
        assert seen["server"] == f"{topology.server_ipv4}:80"
        assert seen["bytes_up"] > 40
        assert seen["bytes_down"] > 100
        assert 0 < seen["age_seconds"] < 60
    clients[0].sendall(b"GET /who HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
    assert clients[0].recv(4096)
    largest = json.loads(sidecar.get("/connections?limit=1&order=largest"))
    assert (largest["active"], [c["class"] for c in largest["connections"]]) == (3, ["api"])
    assert sidecar.get("/connections?order=oldest").startswith("order=oldest is not known. Write order=newest or")
    assert sidecar.get("/connections?limit=0").startswith("limit=0 is not a number of connections.")


@pytest.mark.usefixtures("web")
def test_connections_of_all_workers_are_told(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--workers", "2")
    clients = [answered(topology) for _ in range(12)]
    counts = json.loads(sidecar.get("/connections?limit=10"))
    assert (counts["active"], len(counts["connections"])) == (12, 10)
    every = json.loads(sidecar.get("/connections"))["connections"]
    assert sorted(c["client"]["port"] for c in every) == sorted(client.getsockname()[1] for client in clients)
    ages = [c["age_seconds"] for c in every]
    assert ages == sorted(ages)
    assert "2 workers" in told(topology, "--once")


@pytest.mark.usefixtures("web")
def test_connections_that_were_stepped_aside_from(topology: PodNodeServer, tmp_path: Path) -> None:
    for setting in ("nf_conntrack_acct", "nf_conntrack_timestamp"):
        topology.pod.namespace.write_sysctl(f"net.netfilter.{setting}", "1")
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", "step-aside")
    client = answered(topology)
    [seen] = json.loads(sidecar.get("/connections"))["connections"]
    assert (seen["class"], seen["name"], seen["protocol"], seen["state"]) == (
        "api", "api.example.com", "http1", "stepped-aside",
    )  # fmt: skip
    assert seen["client"]["port"] == client.getsockname()[1]
    assert seen["bytes_up"] > 200, "IP headers count there"
    assert 0 < seen["age_seconds"] < 60
    client.close()
    until("its end", lambda: json.loads(sidecar.get("/connections"))["active"] == 0)


# --- the terminal ----------------------------------------------------------------------------------------------------


def sorted_by(terminal: Terminal) -> str:
    return terminal.until(r"(in the policy's order|sorted by [a-z/ ]+?|the newest first)(, reversed)?\s*$")[0].strip()


@pytest.mark.usefixtures("upload")
def test_keys(topology: PodNodeServer) -> None:
    with on_terminal(top(topology)) as terminal:
        terminal.until(r"^slow .* 1 +0 ")
        terminal.until(r"last 60 s +[▁-█]+ ")
        assert sorted_by(terminal) == "in the policy's order"
        terminal.press("s")
        terminal.until("sorted by class")
        terminal.press(">>>>")
        terminal.until("sorted by now")
        names = [line.split()[0] for line in terminal.screen.splitlines() if line.startswith(("slow", "api", "all"))]
        assert names == ["slow", "api", "all"]
        terminal.press("<r")
        terminal.until("sorted by ceil, reversed")
        terminal.press("\x1b[C")
        terminal.until("sorted by now, reversed")
        terminal.press("c")
        terminal.until(r"^slow +\S+ +\S+:80 +out +slow.example.com +http1 +relaying")
        terminal.until("1 connection alive, 1 of them here")
        terminal.press("l")
        terminal.until("the largest first")
        terminal.press("cp")
        terminal.until("paused: p goes on")
        terminal.press("p?")
        terminal.until("sort by the column before")
        terminal.press("\x1b")
        terminal.until(r"^slow ")
        assert "paused" not in terminal.screen
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.usefixtures("sidecar")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None], ids=["Ctrl-C", "terminate", "q"])
def test_the_terminal_is_left_as_it_was(topology: PodNodeServer, number: signal.Signals | None) -> None:
    with on_terminal(top(topology)) as terminal:
        before = terminal.modes()
        terminal.until("q quit")
        assert terminal.modes() != before
        if number is None:
            terminal.press("q")
        else:
            terminal.process.send_signal(number)
        assert terminal.end() == (128 + number if number else 0)
        assert terminal.modes() == before
        assert terminal.written.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h")), "another screen, or no cursor"
        assert "\x1b[?1049l" in terminal.written
        assert "\x1b[?25h" in terminal.written
        assert "Traceback" not in terminal.written


@pytest.mark.usefixtures("sidecar")
def test_a_count_ends_it_by_itself(topology: PodNodeServer) -> None:
    with on_terminal(top(topology, "--count", "3", "--interval", "100ms")) as terminal:
        terminal.until("q quit")
        assert terminal.end() == 0


@pytest.mark.usefixtures("sidecar")
def test_a_terminal_that_can_only_print_gets_lines(topology: PodNodeServer) -> None:
    with on_terminal(top(topology, "--count", "2", "--interval", "100ms"), environment={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.written
        assert terminal.written.count("backup ") == 2


@pytest.mark.usefixtures("sidecar")
def test_ctrl_z_gives_the_terminal_back_meanwhile(topology: PodNodeServer) -> None:
    with on_terminal(top(topology)) as terminal:
        before = terminal.modes()
        terminal.until("q quit")
        terminal.press("\x1a")
        until("its stop", lambda: Path(f"/proc/{terminal.process.pid}/stat").read_text().split(") ")[1][0] == "T")
        assert terminal.modes() == before
        terminal.forget()
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until("q quit")
        terminal.press("q")
        assert terminal.end() == 0


def test_lanes_without_a_sidecar_have_the_names_of_their_policy(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    policy, history = tmp_path / "lanes.yaml", tmp_path / "history.db"
    policy.write_text(
        "total: 100Mbit\ningress: {total: 50Mbit}\nclasses:\n"
        "  - {name: db, rate: 20Mbit, ingress: {rate: 10Mbit, ceil: 20Mbit}, match: {port: 5432}}\n"
    )
    environment = {**os.environ, "PODLANE_HISTORY": str(history)}
    podlane = [sys.executable, "-m", "podlane"]
    pod.run([*podlane, "tc", "apply", "eth0", "--file", str(policy)], env=environment)
    done = subprocess.run(
        top(topology, "-i", "eth0", "--json", "--count", "1"),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    shown = [(c["name"], c["direction"], c["ceil_bits_per_second"]) for c in json.loads(done.stdout)["classes"]]
    assert shown == [
        ("db", "sends", 100_000_000),
        ("default", "sends", 100_000_000),
        ("db", "receives", 20_000_000),
        ("default", "receives", 50_000_000),
    ]
    with on_terminal(top(topology, "-i", "eth0"), environment=environment) as terminal:
        terminal.until(r"^db .*\s+default .*\s+↓ db ")
        terminal.press("c")
        terminal.until("Only a sidecar knows connections")
        terminal.press("cq")
        assert terminal.end() == 0


def test_a_sidecar_that_goes_and_comes_back_is_followed(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with on_terminal(top(topology, "--interval", "200ms")) as terminal:
        terminal.until(r"^slow ")
        assert sidecar.stop() == 0
        terminal.until("No sidecar is to be reached at 127.0.0.1:15109: Connection refused")
        assert "slow" in terminal.screen, "what was seen last stays"
        start_sidecar(topology.pod, POLICY.replace("slow", "slower"), tmp_path)
        terminal.until(r"^slower ")
        assert "No sidecar" not in terminal.screen
        terminal.press("q")
        assert terminal.end() == 0


def test_a_small_terminal_has_what_matters(topology: PodNodeServer, tmp_path: Path) -> None:
    many = "".join(f"  - {{name: class-{n}, rate: 1Mbit, match: {{port: {n}}}}}\n" for n in range(1, 41))
    start_sidecar(topology.pod, f"total: 100Mbit\nclasses:\n{many}", tmp_path)
    with on_terminal(top(topology), rows=20, columns=80) as terminal:
        terminal.until(r"class-1 ")
        lines = terminal.screen.splitlines()
        assert len(lines) <= 20
        assert all(len(line.rstrip()) <= 80 for line in lines)
        assert {"class", "now", "ceil"} < set(terminal.until(r"^class .*$")[0].split())
        assert "class-15 " not in terminal.screen
        terminal.press("\x1b[6~j")
        terminal.until(r"^class .*\s+class-12 ")  # the first below the headings
        terminal.press("g")
        terminal.until(r"^class .*\s+class-1 ")
        terminal.press("q")
        assert terminal.end() == 0


# --- mistakes --------------------------------------------------------------------------------------------------------


def refused(*arguments: str, host: Any = None) -> str:
    command = [sys.executable, "-m", "podlane", "top", "--once", *arguments]
    done = (
        host.run(command, check=False)
        if host is not None
        else subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return str(line)


class Older(http.server.BaseHTTPRequestHandler):
    """An admin server of the version before: no counters of borrowing, no /connections."""

    def do_GET(self) -> None:
        known = {"/classes": {"interface": "eth0", "total_bits_per_second": 1, "classes": []}}
        body = json.dumps(known[self.path]).encode() if self.path in known else b"There is no such path here."
        self.send_response(200 if self.path in known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_mistakes_are_one_clear_line(topology: PodNodeServer) -> None:
    pod = topology.pod
    said = refused(host=pod)
    assert "No sidecar is to be reached at 127.0.0.1:15109: Connection refused." in said
    assert "--interface NAME does without" in said
    assert "There is no interface 'eth7' in this network namespace. It has: eth0, lo." in refused(
        "-i", "eth7", host=pod
    )
    assert "There is no network namespace nowhere (No such file or directory)." in refused("--netns", "nowhere")
    assert "There is no network namespace /etc/passwd (Invalid argument)." in refused("--netns", "/etc/passwd")
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run([*as_nobody, *top(topology, "--once")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Use sudo" in done.stderr
    with pod.namespace.entered():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 15109), Older)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "is of an older version" in refused(host=pod)
    finally:
        server.shutdown()
        server.server_close()
