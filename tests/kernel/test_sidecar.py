"""The whole sidecar in a Pod's namespace, with unmodified programs: nginx, curl, openssl, redis."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sidecars import refused_sidecar, start_sidecar, state_of
from waiting import until, until_listening
from webserver import HTTP2, WebServer, start_nginx, upload

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 1Gbit
classes:
  - {name: sni, rate: 10Mbit, match: {sni: ["*.api.example.com", api.example.com]}}
  - {name: host, rate: 10Mbit, match: {host: web.example.com}}
  - {name: h2only, rate: 10Mbit, match: {alpn: h2}}
  - {name: port, rate: 10Mbit, match: {port: "9000-9100"}}
  - {name: udp, rate: 10Mbit, match: {protocol: udp, port: 7000}}
"""

PORTS_FIRST = """
total: 1Gbit
classes:
  - {name: port, rate: 10Mbit, match: {port: "9000-9100"}}
  - {name: udp, rate: 10Mbit, match: {protocol: udp, port: 7000}}
  - {name: sni, rate: 10Mbit, match: {sni: api.example.com}}
"""


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def curl(pod: Host, url: str, *options: str, resolve: str = "") -> str:
    pinned = ["--resolve", resolve] if resolve else []
    return pod.run(["curl", "-sS", "-k", "--max-time", "15", *pinned, *options, url]).stdout


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.usefixtures("web")
def test_connections_are_told_apart_on_one_address(topology: PodNodeServer, tmp_path: Path, family: str) -> None:
    pod = topology.pod
    address = topology.server_ipv4 if family == "ipv4" else f"[{topology.server_ipv6}]"
    client = str(topology.pod_link.a.ipv4 if family == "ipv4" else topology.pod_link.a.ipv6)
    sidecar = start_sidecar(pod, POLICY, tmp_path)

    said = curl(pod, "https://x.api.example.com/who", "--http1.1", resolve=f"x.api.example.com:443:{address}")
    assert said == f"x.api.example.com|x.api.example.com|HTTP/1.1|{client}\n"
    assert sidecar.connections("sni") == {"tls": 1}

    assert (
        curl(pod, f"http://{address}/who", "-H", "Host: WEB.example.com:80") == f"|web.example.com|HTTP/1.1|{client}\n"
    )
    assert sidecar.connections("host") == {"http1": 1}

    said = curl(
        pod, "http://web.example.com:8080/who", "--http2-prior-knowledge", resolve=f"web.example.com:8080:{address}"
    )
    assert said == f"|web.example.com|HTTP/2.0|{client}\n"
    assert sidecar.connections("host") == {"http1": 1, "http2": 1}

    said = curl(pod, "https://other.example.com/who", "--http2", resolve=f"other.example.com:443:{address}")
    assert said == f"other.example.com|other.example.com|HTTP/2.0|{client}\n"
    assert sidecar.connections("h2only") == {"tls": 1}

    said = curl(
        pod, "https://other.example.com/who", "--http1.1", "--no-alpn", resolve=f"other.example.com:443:{address}"
    )
    assert said == f"other.example.com|other.example.com|HTTP/1.1|{client}\n"
    assert sidecar.connections("default") == {"tls": 1}
    assert sidecar.stop() == 0


@pytest.mark.usefixtures("web")
def test_connections_are_told_apart_by_where_they_come_from(topology: PodNodeServer, tmp_path: Path) -> None:
    """The proxy sees the application's own address, also when that is not the interface's first."""
    pod, first = topology.pod, topology.pod_link.a.ipv4
    second = first + 100
    pod.ip("address", "add", f"{second}/32", "dev", "eth0")
    topology.node.ip("route", "add", f"{second}/32", "via", str(first))
    policy = (
        "total: 1Gbit\nclasses:\n"
        f"  - {{name: second, rate: 1Mbit, match: {{host: web.example.com, source: {second}}}}}\n"
        "  - {name: others, rate: 1Mbit, match: {host: web.example.com}}\n"
    )
    sidecar = start_sidecar(pod, policy, tmp_path)
    for address in (first, second):
        curl(pod, f"http://{topology.server_ipv4}/who", "-H", "Host: web.example.com", "--interface", str(address))
    assert sidecar.connections("second") == {"http1": 1}
    assert sidecar.connections("others") == {"http1": 1}


def test_port_classes_never_meet_the_proxy(topology: PodNodeServer, tmp_path: Path) -> None:
    pod, server = topology.pod, topology.server
    sink = [
        sys.executable,
        "-c",
        "import socket; s=socket.create_server(('', 9050)); c,_=s.accept()\nwhile c.recv(65536): pass",
    ]
    server.popen(sink)
    until_listening(server, 9050)
    sidecar = start_sidecar(pod, PORTS_FIRST, tmp_path)
    send = "import socket,sys; s=socket.create_connection((sys.argv[1], 9050)); s.sendall(bytes(500000)); s.shutdown(1); s.recv(1)"
    pod.run([sys.executable, "-c", send, topology.server_ipv4])
    datagrams = (
        "import socket,sys; s=socket.socket(2,2); [s.sendto(bytes(1000), (sys.argv[1], 7000)) for _ in range(50)]"
    )
    pod.run([sys.executable, "-c", datagrams, topology.server_ipv4])
    until("the sample to show it", lambda: sidecar.classes()["port"]["bytes"] > 500_000)
    until("the sample to show it", lambda: sidecar.classes()["udp"]["packets"] >= 50)
    assert all(c["connections"]["total"] == 0 for c in sidecar.classes().values())


@pytest.mark.usefixtures("web")
def test_openssl_and_a_name_nobody_listed(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    for name in ("deep.er.api.example.com", "nobody.example.org"):
        topology.pod.run(
            ["openssl", "s_client", "-connect", f"{topology.server_ipv4}:443", "-servername", name], stdin="Q\n"
        )
    assert sidecar.connections("sni") == {"tls": 1}
    assert sidecar.connections("default") == {"tls": 1}


def test_server_first_protocols_and_silence(topology: PodNodeServer, tmp_path: Path) -> None:
    """Redis on its own port is not captured; on another port its first bytes tell that it is nothing we read; and a server
    that speaks first on an unknown port is heard after the detection timeout."""
    pod, server = topology.pod, topology.server
    for port in ("6379", "6390"):
        server.popen(
            [
                "redis-server",
                "--port",
                port,
                "--bind",
                "0.0.0.0",
                "--protected-mode",
                "no",
                "--save",
                "",
                "--daemonize",
                "no",
            ],
            stdout=subprocess.DEVNULL,
        )
        until_listening(server, int(port))
    banner = "import socket; s=socket.create_server(('', 6400)); c,_=s.accept(); c.sendall(b'220 hello\\r\\n'); print(c.recv(99))"
    server.popen([sys.executable, "-c", banner], stdout=subprocess.DEVNULL)
    until_listening(server, 6400)
    sidecar = start_sidecar(pod, POLICY, tmp_path, "--detection-timeout", "300ms")
    for port in ("6379", "6390"):
        assert pod.run(["redis-cli", "-h", topology.server_ipv4, "-p", port, "SET", "k", "v"]).stdout == "OK\n"
    listen = "import socket,sys; s=socket.create_connection((sys.argv[1], 6400)); print(s.recv(99)); s.sendall(b'QUIT')"
    assert pod.run([sys.executable, "-c", listen, topology.server_ipv4]).stdout == "b'220 hello\\r\\n'\n"
    assert sidecar.connections("default") == {"opaque": 2}


def test_bodies_arrive_as_they_were_sent(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    pod = topology.pod
    start_sidecar(pod, POLICY, tmp_path)
    source = random.Random(20)
    for size in (0, 1, 65_535, 65_536, 1_000_003, 20_000_000):
        body = source.randbytes(size)
        up, down = tmp_path / "up", tmp_path / "down"
        up.write_bytes(body)
        for url, put_options, get_options in (
            ("https://api.example.com:443/f", [HTTP2], ["--http2"]),
            ("http://web.example.com:80/f", [], []),
            ("http://web.example.com:8080/f", [HTTP2], ["--http2-prior-knowledge"]),
        ):
            upload(pod, up, url, topology.server_ipv4, *put_options)
            assert hashlib.sha256((web.root / "f").read_bytes()).digest() == hashlib.sha256(body).digest()
            resolve = f"{url.split('/')[2]}:{topology.server_ipv4}"
            curl(pod, url, "-f", "-o", str(down), *get_options, resolve=resolve)
            assert hashlib.sha256(down.read_bytes()).digest() == hashlib.sha256(body).digest()
            down.unlink()


def test_limits_change_while_traffic_runs(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    pod = topology.pod
    policy = "total: 100Mbit\nclasses: [{{name: up, rate: 1Mbit, ceil: {ceil}, match: {{host: web.example.com}}}}]\n"
    sidecar = start_sidecar(pod, policy.format(ceil="4Mbit"), tmp_path)
    body = tmp_path / "body"
    body.write_bytes(random.Random(1).randbytes(30_000_000))
    upload = pod.popen(
        ["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/f"]
    )
    until("a slow upload", lambda: 3e6 < sidecar.classes()["up"]["current_rate_bits_per_second"] < 4.4e6)
    sidecar.reload(policy.format(ceil="80Mbit"))
    until("a fast upload", lambda: sidecar.classes()["up"]["current_rate_bits_per_second"] > 60e6)
    sidecar.reload("total: 1Mbit\nclasses: [{name: up, rate: 5Mbit}]")
    assert "not used" in sidecar.log.read_text()
    assert sidecar.classes()["up"]["ceil_bits_per_second"] == 80_000_000
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == body.read_bytes()


@pytest.mark.usefixtures("web")
def test_a_reload_can_begin_and_end_the_capture(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, "total: 100Mbit\nclasses: [{name: p, rate: 1Mbit, match: {port: 80}}]", tmp_path)
    assert ":15101 " not in pod.run(["ss", "-ltn"]).stdout
    ask = f"http://{topology.server_ipv4}/who"
    curl(pod, ask)
    sidecar.reload("total: 100Mbit\nclasses: [{name: h, rate: 1Mbit, match: {host: web.example.com}}]")
    assert ":15101 " in pod.run(["ss", "-ltn"]).stdout
    curl(pod, ask, "-H", "Host: web.example.com")
    assert sidecar.connections("h") == {"http1": 1}
    sidecar.reload("total: 100Mbit\nclasses: [{name: p, rate: 1Mbit, match: {port: 80}}]")
    until("the listener to go", lambda: ":15101 " not in pod.run(["ss", "-ltn"]).stdout)
    curl(pod, ask)


def test_sigterm_lets_transfers_finish_and_leaves_no_trace(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    pod = topology.pod
    before = state_of(pod)
    policy = "total: 100Mbit\nclasses: [{name: up, rate: 1Mbit, ceil: 40Mbit, match: {host: web.example.com}}]"
    sidecar = start_sidecar(pod, policy, tmp_path)
    assert state_of(pod) != before
    body = tmp_path / "body"
    body.write_bytes(random.Random(2).randbytes(8_000_000))
    upload = pod.popen(
        ["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/f"]
    )
    until("a running upload", lambda: sidecar.classes()["up"]["bytes"] > 200_000)
    sidecar.process.send_signal(signal.SIGTERM)
    until("the drain", lambda: "draining" in sidecar.log.read_text())
    assert curl(pod, f"http://{topology.server_ipv4}/who", "-H", "Host: web.example.com").startswith("|web.example.com")
    assert sidecar.process.wait(30) == 0
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == body.read_bytes()
    assert state_of(pod) == before


@pytest.mark.usefixtures("web")
def test_the_grace_period_ends(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    policy = "total: 10Mbit\nclasses: [{name: up, rate: 1Mbit, ceil: 1Mbit, match: {host: web.example.com}}]"
    sidecar = start_sidecar(pod, policy, tmp_path, "--grace", "500ms")
    body = tmp_path / "body"
    body.write_bytes(bytes(5_000_000))
    upload = pod.popen(
        ["curl", "-sS", "-T", str(body), "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/f"],
        stderr=subprocess.DEVNULL,
    )
    until("a running upload", lambda: sidecar.connections("up"))
    assert sidecar.stop() == 0
    assert "cut" in sidecar.log.read_text()
    assert upload.wait(10) != 0


@pytest.mark.usefixtures("web")
def test_after_a_kill_the_next_start_repairs_and_cleanup_removes(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    before = state_of(pod)
    killed = start_sidecar(pod, POLICY, tmp_path)
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    again = start_sidecar(pod, POLICY, tmp_path)
    curl(pod, f"http://{topology.server_ipv4}/who", "-H", "Host: web.example.com")
    assert again.connections("host") == {"http1": 1}
    assert again.stop(signal.SIGKILL) == -signal.SIGKILL
    assert refused_sidecar(pod, "--cleanup") == (0, "")
    assert state_of(pod) == before
    assert refused_sidecar(pod, "--cleanup") == (0, "")


def test_bad_input_is_named_and_nothing_is_touched(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    good = tmp_path / "good.yaml"
    good.write_text(POLICY)
    bad = tmp_path / "bad.yaml"
    bad.write_text("total: 5")
    beyond = tmp_path / "beyond.yaml"
    beyond.write_text("total: 1Gbit\nshaper: prio")
    before = state_of(pod)
    cases = [
        (["--policy", str(tmp_path / "none.yaml")], 2, "cannot be read: No such file"),
        (["--policy", str(bad)], 2, "has no unit"),
        (["--policy", str(beyond)], 2, "shaper: The sidecar shares the total by guarantees, not by prio."),
        ([], 2, "--policy (or PODLANE_POLICY) is missing"),
        (["--policy", str(good), "--interface", "eth7"], 1, "eth7"),
        (["--policy", str(good), "--total", "20Mbit"], 2, "Cannot guarantee 50 Mbit/s inside 20 Mbit/s"),
    ]
    for arguments, status, words in cases:
        code, said = refused_sidecar(pod, *arguments)
        assert (code, words in said) == (status, True), said
        assert "Traceback" not in said
    assert state_of(pod) == before


def test_somebody_elses_qdisc_is_left_alone_unless_told(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    pod.run(
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            "eth0",
            "root",
            "handle",
            "7:",
            "tbf",
            "rate",
            "1mbit",
            "burst",
            "10kb",
            "latency",
            "50ms",
        ]
    )
    before = state_of(pod)
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    code, said = refused_sidecar(pod, "--policy", str(policy))
    assert code == 1
    assert "tbf" in said
    assert "--replace" in said
    assert state_of(pod) == before
    assert start_sidecar(pod, POLICY, tmp_path, "--replace").stop() == 0


def test_a_second_instance_and_a_taken_port(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    first = start_sidecar(pod, POLICY, tmp_path)
    code, said = refused_sidecar(pod, "--policy", str(policy))
    assert (code, "Another Podlane" in said) == (1, True), said
    assert first.stop() == 0
    before = state_of(pod)
    with pod.namespace.entered():
        taken = socket.create_server(("127.0.0.1", 15101))
    with taken:
        second = start_sidecar(pod, POLICY, tmp_path)
        assert "--on-port 15101 " not in pod.run(["iptables-save"]).stdout
        assert "a port is taken, and another is used" in second.log.read_text()
        assert second.stop() == 0
    assert state_of(pod) == before


def test_without_privileges_it_says_which_one_is_missing(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    done = topology.pod.run(
        [
            "setpriv",
            "--bounding-set=-all",
            "--inh-caps=-all",
            sys.executable,
            "-m",
            "podlane",
            "sidecar",
            "--policy",
            str(policy),
        ],
        check=False,
    )
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("web")
def test_metrics_health_and_one_log_line_per_connection(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, POLICY, tmp_path, "--log-format", "json")
    curl(pod, f"http://{topology.server_ipv4}/who", "-H", "Host: web.example.com")
    pod.run(["curl", "-sS", "http://10.77.2.2:81/", "--max-time", "3"], check=False)
    assert sidecar.get("/healthz") == "ok\n"
    assert sidecar.get("/readyz") == "ready\n"
    metrics = until(
        "the connection's end", lambda: _with(sidecar.get("/metrics"), 'podlane_relayed_bytes_total{class="host"')
    )
    for sample in (
        'podlane_connections_total{class="host",protocol="http1"} 1.0',
        'podlane_detections_total{protocol="http1",reason="found"} ',
        'podlane_class_ceil_bits_per_second{class="sni"} 1000000000.0',
        'podlane_class_drops_total{class="default"}',
        "podlane_detection_seconds_bucket",
    ):
        assert sample in metrics
    assert '"class_name": "host"' in sidecar.log.read_text() or '"class": "host"' in sidecar.log.read_text()


def _with(text: str, part: str) -> str:
    return text if part in text else ""
