"""An EnvoyFilter of ours in the real Envoy: whose packets carry which mark, and so which class they are in."""

from __future__ import annotations

import http.client
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from istio_envoy import bootstrap, patched, start_envoy
from lab import connect, serving
from webserver import WebServer, start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 1Gbit
classes:
  - {name: api, rate: 10Mbit, match: {host: api.example.com}}
  - {name: shop, rate: 10Mbit, match: {sni: shop.example.com, port: 443}}
  - {name: later, rate: 10Mbit, match: {sni: shop.example.com}}
  - {name: outside, rate: 10Mbit, match: [{sni: ["*.cloud.example", cloud.example]}, {host: ["*.cloud.example"]}]}
"""
"""``later`` wants the same host on all ports, and must not get the one that another class has before it."""
BODY = b"x" * 200_000
_OTHERS = 12_000
"""Bytes of handshakes and acknowledgements, at most, beside an upload."""

PODLANE = [sys.executable, "-m", "podlane"]


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    web = start_nginx(topology.server, tmp_path / "nginx")
    redirect = ["-p", "tcp", "--dport", "8443", "-j", "REDIRECT", "--to-ports", "443"]
    topology.server.run(["iptables", "-t", "nat", "-A", "PREROUTING", *redirect])
    return web


def generated(topology: PodNodeServer, folder: Path, verb: str, *options: str, policy: str = POLICY) -> str:
    """What ``podlane mesh`` prints."""
    path = folder / "policy.yaml"
    path.write_text(policy)
    return topology.pod.run([*PODLANE, "mesh", verb, "--policy", str(path), *options]).stdout


def shape(topology: PodNodeServer, folder: Path, policy: str = POLICY) -> None:
    """Put the limits in force: HTB alone, no proxy of ours."""
    path = folder / "marks.yaml"
    path.write_text(generated(topology, folder, "policy", policy=policy))
    topology.pod.run([*PODLANE, "tc", "--no-history", "apply", "eth0", "--file", str(path)])


def filtered(topology: PodNodeServer, folder: Path, *options: str, policy: str = POLICY) -> dict[str, object]:
    """The Pod's Envoy, with our EnvoyFilter."""
    made = yaml.safe_load(generated(topology, folder, "envoyfilter", *options, policy=policy))
    return patched(bootstrap(topology.server_ipv4), made)


def sent(topology: PodNodeServer) -> dict[str, int]:
    """Bytes by HTB's classes."""
    shown = topology.pod.run(["tc", "-s", "class", "show", "dev", "eth0"]).stdout
    return {name: int(count) for name, count in re.findall(r"class htb 1:1(\w\w) .*\n Sent (\d+) bytes", shown)}


@pytest.fixture
def grown(topology: PodNodeServer) -> Callable[[Callable[[], None]], set[str]]:
    """Which classes have grown by an upload, by their ids."""

    def by(work: Callable[[], None]) -> set[str]:
        before = sent(topology)
        work()

        return {name for name, now in sent(topology).items() if now - before[name] > _OTHERS}

    return by


def put(client: http.client.HTTPConnection, host: str) -> None:
    client.request("PUT", "/f", BODY, {"Host": host})
    answer = client.getresponse()
    answer.read()
    assert answer.status in (201, 204), answer.status


def by_http(topology: PodNodeServer, *hosts: str, port: int = 80) -> None:
    """An upload for each host, on one connection."""
    client = http.client.HTTPConnection(topology.server_ipv4, port)
    client.sock = connect(topology.pod, topology.server_ipv4, port)
    for host in hosts:
        put(client, host)
    client.close()


def by_tls(topology: PodNodeServer, name: str, port: int = 443) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = http.client.HTTPConnection(topology.server_ipv4, port)
    client.sock = context.wrap_socket(connect(topology.pod, topology.server_ipv4, port), server_hostname=name)
    put(client, name)
    client.close()


API, SHOP, OUTSIDE, DEFAULT = "01", "02", "04", "ff"


@pytest.mark.usefixtures("web")
def test_envoy_marks_what_it_sends_by_name(
    topology: PodNodeServer, tmp_path: Path, grown: Callable[[Callable[[], None]], set[str]]
) -> None:
    options = [
        *(f"--external={name}" for name in ("cloud.example", "*.cloud.example")),
        "--tls-port=443",
        "--tls-port=8443",
    ]
    start_envoy(topology.pod, filtered(topology, tmp_path, *options), tmp_path)
    shape(topology, tmp_path)
    uploads = {
        "a host of the mesh": (lambda: by_http(topology, "api.example.com"), {API}),
        "TLS to a host of the mesh": (lambda: by_tls(topology, "shop.example.com"), {SHOP}),
        "each request of a connection": (
            lambda: by_http(topology, "api.example.com", "x.cloud.example"),
            {API, OUTSIDE},
        ),
        "TLS to a host outside": (lambda: by_tls(topology, "cloud.example"), {OUTSIDE}),
        "TLS to a host outside, another port": (lambda: by_tls(topology, "a.b.cloud.example", 8443), {OUTSIDE}),
        "HTTP to a host outside": (lambda: by_http(topology, "a.cloud.example"), {OUTSIDE}),
        "HTTP to others": (lambda: by_http(topology, "other.example"), {DEFAULT}),
        "TLS to others": (lambda: by_tls(topology, "other.example"), {DEFAULT}),
        "TLS to others, another port": (lambda: by_tls(topology, "other.example", 8443), {DEFAULT}),
    }
    assert {name: grown(work) for name, (work, _) in uploads.items()} == {n: ids for n, (_, ids) in uploads.items()}
    greeting = b"220 hello"
    with (
        serving(topology.server, lambda connection: connection.sendall(greeting), 3306),
        connect(topology.pod, topology.server_ipv4, 3306) as client,
    ):
        assert client.recv(9) == greeting, "a server that speaks first must not wait for its client"


@pytest.mark.usefixtures("web")
def test_the_limit_of_a_class_holds(topology: PodNodeServer, tmp_path: Path) -> None:
    """1.6 Mbit at 4 Mbit/s take 0.4 s, less what may go at once."""
    policy = "total: 1Gbit\nclasses: [{name: api, rate: 1Mbit, ceil: 4Mbit, match: {host: api.example.com}}]\n"
    start_envoy(topology.pod, filtered(topology, tmp_path, policy=policy), tmp_path)
    shape(topology, tmp_path, policy)
    for _ in range(2):
        by_http(topology, "api.example.com")
    by_http(topology, "other.example")
    log = (tmp_path / "nginx" / "access.log").read_text().splitlines()
    *_, last, other = ((line.split()[0], float(line.split()[3])) for line in log)
    assert (last[0], other[0]) == ("api.example.com", "other.example")
    assert last[1] > 0.25
    assert other[1] < 0.25


@pytest.mark.usefixtures("web")
def test_without_the_capability_the_marked_connections_fail_and_no_others(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    """What the note that is printed says."""
    lost = "-net_admin,-net_raw"
    start_envoy(topology.pod, filtered(topology, tmp_path), tmp_path, "--inh-caps", lost, "--bounding-set", lost)
    with pytest.raises(AssertionError, match="503"):
        by_http(topology, "api.example.com")
    by_http(topology, "other.example")


@pytest.mark.usefixtures("web")
def test_254_classes_have_marks_that_fit(topology: PodNodeServer, tmp_path: Path) -> None:
    """The highest ids are negative numbers to setsockopt(2)."""
    classes = [f"  - {{name: c{n}, rate: 8kbit, match: {{host: h{n}.example.com}}}}" for n in range(253)]
    policy = "\n".join(
        ["total: 1Gbit", "classes:", *classes, "  - {name: api, rate: 8kbit, match: {host: api.example.com}}"]
    )
    start_envoy(topology.pod, filtered(topology, tmp_path, "--external=h1.example.com", policy=policy), tmp_path)
    topology.pod.run(["iptables", "-t", "mangle", "-A", "OUTPUT", "-m", "mark", "--mark", "0xfe000000/0xff000000"])
    by_http(topology, "api.example.com")
    shown = topology.pod.run(["iptables", "-t", "mangle", "-L", "OUTPUT", "-v", "-n", "-x"]).stdout
    assert int(shown.splitlines()[2].split()[1]) > len(BODY)
