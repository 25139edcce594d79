"""Beside a real Envoy that is set up as Istio's sidecar: nothing breaks, and what leaves the Pod has its class."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from istio_rules import IstioRules, Mode
from lab import connect, serving
from mesh_world import OUTSIDE, POD_SERVICE, SERVICE, SERVICE_PORT, VIRTUAL, MeshWorld, meshed
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from sidecars import RunningSidecar, refused_sidecar, start_sidecar
from uploads import http_upload, pushing, receiving, tls_hello
from waiting import until
from webserver import start_nginx

from podlane.netns import Host
from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.covering]

POLICY = f"""
total: 200Mbit
classes:
  - {{name: api, rate: 1Mbit, match: {{host: {SERVICE}, port: {SERVICE_PORT}}}}}
  - {{name: files, rate: 1Mbit, match: {{sni: {OUTSIDE}}}}}
  - {{name: web, rate: 1Mbit, match: {{host: {OUTSIDE}, port: 80}}}}
"""
MANY = 100
ANSWER = 300_000
"""Bytes of an answer or an upload, far more than all handshakes and acknowledgements together."""
AS_INJECTED = (
    *("setpriv", "--regid", "1337", "--clear-groups"),
    *("--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin", "--"),
)  # fmt: skip
"""The securityContext that the injector gives: root in Istio's group, with NET_ADMIN and nothing else."""
IMPATIENT = ("--grace", "100ms")
"""Envoy keeps connections that have nothing to do; a drain would wait for them."""
BOTH = (Mode.REDIRECT, Mode.TPROXY)
BOTH_MODES = pytest.mark.parametrize("mode", BOTH, ids=str)
BOTH_DATAPATHS = pytest.mark.parametrize(
    "datapath", ["relay", "step-aside", pytest.param("ebpf", marks=pytest.mark.nightly)]
)
ALL_DATAPATHS = pytest.mark.parametrize("datapath", ["relay", "step-aside", "ebpf"])


def seen(sidecar: RunningSidecar) -> dict[str, dict[str, int]]:
    """How many connections each class has had, by protocol."""
    return {name: c["connections"]["by_protocol"] for name, c in sidecar.classes().items()}


def until_seen(sidecar: RunningSidecar, expected: dict[str, dict[str, int]]) -> None:
    """Wait until so many have been counted, and no others: what programs count is read once a second."""
    until(f"exactly {expected}", lambda: seen(sidecar) == expected)


def many(world: MeshWorld) -> None:
    """Requests on connections of their own, to a service and to a server outside; each is answered."""
    for url, address in (
        (f"https://{OUTSIDE}:443", world.topology.server_ipv4),
        (f"http://{SERVICE}:{SERVICE_PORT}", VIRTUAL),
    ):
        authority = url.partition("//")[2]
        answers = world.curl(
            *("--http1.1", "-H", "Connection: close", "--resolve", f"{authority}:{address}", f"{url}/who?[1-{MANY}]")
        )
        assert answers.count(f"|{authority.partition(':')[0]}|HTTP/1.1|") == MANY


def at_once(world: MeshWorld) -> None:
    """A thousand requests to each, twenty at a time, and one by IPv6."""
    for url, address in (
        (f"https://{OUTSIDE}:443", world.topology.server_ipv4),
        (f"http://{SERVICE}:{SERVICE_PORT}", VIRTUAL),
    ):
        to = f"{address}:{url.rpartition(':')[2]}"
        said = world.topology.pod.run(["h2load", "--h1", "-n1000", "-c20", "--connect-to", to, f"{url}/who"]).stdout
        assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in said
    if world.envoy.mode is not Mode.AMBIENT:  # where Envoy binds to an IPv4 address, to have its sockets marked
        answer = world.curl("--resolve", f"{OUTSIDE}:443:[{world.topology.server_ipv6}]", f"https://{OUTSIDE}/who")
        assert answer.endswith(f"|{world.topology.pod_link.a.ipv6}\n")


@pytest.mark.istio_programs
@pytest.mark.parametrize("mode", Mode, ids=str)
def test_its_programs_write_what_is_documented(topology: PodNodeServer, mode: Mode) -> None:
    """So tests that have the documented form alone, where there are no programs or nothing is installed, mean them."""
    written, documented = IstioRules(topology.pod, mode), IstioRules(topology.server, mode)
    written.install()
    documented.install_documented()
    assert written.saved() == documented.saved()


NATIVE = [pytest.param(mode, True, marks=pytest.mark.istio_programs, id=f"nftables-{mode}") for mode in BOTH]


@ALL_DATAPATHS
@pytest.mark.parametrize(("mode", "native"), [*(pytest.param(mode, False, id=mode) for mode in Mode), *NATIVE])
def test_after_istio_every_request_succeeds_and_is_in_its_class(
    topology: PodNodeServer, tmp_path: Path, mode: Mode, native: bool, datapath: str
) -> None:
    if datapath == "ebpf":
        require_programs()
    world = meshed(topology, tmp_path, mode, native=native)
    theirs = world.rules.saved()
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath, *IMPATIENT)
    world.works()
    until_seen(sidecar, {"api": {"tls": 1}, "files": {"tls": 1}, "web": {"http1": 1}, "default": {}})
    many(world)
    # The service's requests share Envoy's connection, those that it passes through have their own. None is seen twice.
    until_seen(sidecar, {"api": {"tls": 1}, "files": {"tls": 1 + MANY}, "web": {"http1": 1}, "default": {}})
    at_once(world)
    passed = 1 + MANY + 20 + (mode is not Mode.AMBIENT)
    until(f"{passed} connections to the server outside", lambda: seen(sidecar)["files"]["tls"] == passed)
    assert seen(sidecar)["default"] == {}
    assert world.rules.saved() == theirs
    assert sidecar.stop() == 0
    assert world.rules.saved() == theirs
    world.works()


@BOTH_MODES
def test_before_istio_and_through_restarts_of_either(topology: PodNodeServer, tmp_path: Path, mode: Mode) -> None:
    world = meshed(topology, tmp_path, mode, rules=False)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--mesh", "istio", *IMPATIENT, wrapped=AS_INJECTED)
    world.rules.install()
    theirs = world.rules.saved()
    world.works()
    assert seen(sidecar) == {"api": {"tls": 1}, "files": {"tls": 1}, "web": {"http1": 1}, "default": {}}
    world.envoy.restart()
    world.works()
    assert seen(sidecar) == {"api": {"tls": 2}, "files": {"tls": 2}, "web": {"http1": 2}, "default": {}}
    sidecar.stop(signal.SIGKILL)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *IMPATIENT, wrapped=AS_INJECTED)
    world.works()
    many(world)
    assert world.rules.saved() == theirs
    assert sidecar.stop() == 0
    assert world.rules.saved() == theirs
    world.works()


LIMITS = {"api": 10, "files": 20, "web": 15}
LIMITED = f"""
total: 100Mbit
classes:
  - {{name: api, rate: 1Mbit, ceil: 10Mbit, match: {{sni: upload.{SERVICE}, port: {SERVICE_PORT}}}}}
  - {{name: files, rate: 1Mbit, ceil: 20Mbit, match: {{sni: {OUTSIDE}}}}}
  - {{name: web, rate: 1Mbit, ceil: 15Mbit, match: {{host: {OUTSIDE}}}}}
"""


@pytest.mark.measure
@BOTH_DATAPATHS
def test_classes_by_sni_and_host_hold_their_limits(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    world = meshed(topology, tmp_path, Mode.REDIRECT)
    start_sidecar(topology.pod, LIMITED, tmp_path, "--datapath", datapath)
    best = dict.fromkeys(LIMITS, 0.0)
    for _ in range(ATTEMPTS):
        meters = {name: Meter(3) for name in LIMITS}
        with ExitStack() as stack:
            stack.enter_context(serving(world.peer_envoy.host, receiving(meters["api"]), port=9000))
            tls = stack.enter_context(serving(topology.server, receiving(meters["files"])))
            http = stack.enter_context(serving(topology.server, receiving(meters["web"])))
            for address, port, beginning in (
                (VIRTUAL, SERVICE_PORT, http_upload(f"upload.{SERVICE}:{SERVICE_PORT}")),
                (topology.server_ipv4, tls, tls_hello(OUTSIDE)),
                (topology.server_ipv4, http, http_upload(OUTSIDE)),
            ):
                stack.enter_context(pushing(connect(topology.pod, address, port), beginning))
            shares = {name: meter.megabits / (LIMITS[name] * PAYLOAD_SHARE) for name, meter in meters.items()}
        print({name: f"{share:.3f} of what headers leave of {LIMITS[name]} Mbit/s" for name, share in shares.items()})
        assert max(shares.values()) <= 1.05
        best = {name: max(best[name], share) for name, share in shares.items()}
        if min(best.values()) >= 0.95:
            return
    pytest.fail(f"not within 5 % of the ceil in {ATTEMPTS} attempts: {best}")


def test_envoys_open_connections_follow_a_new_policy_with_programs(topology: PodNodeServer, tmp_path: Path) -> None:
    require_programs()
    world = meshed(topology, tmp_path, Mode.REDIRECT)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", "ebpf", *IMPATIENT)
    world.asks_service()
    until_seen(sidecar, {"api": {"tls": 1}, "files": {}, "web": {}, "default": {}})
    sidecar.reload(POLICY.replace("name: api", "name: moved"))
    body = tmp_path / "body"
    body.write_bytes(bytes(ANSWER))
    url = f"http://{SERVICE}:{SERVICE_PORT}/f"
    world.curl("-f", "-T", str(body), "--resolve", f"{SERVICE}:{SERVICE_PORT}:{VIRTUAL}", url)
    until("the upload to be counted", lambda: sidecar.classes()["moved"]["bytes"] > ANSWER)
    assert seen(sidecar)["moved"] == {}, "Envoy has opened no other connection"


FOLLOWED = """
total: 200Mbit
requests: follow
classes:
  - {name: one, rate: 1Mbit, match: {host: one.example.com}}
  - {name: two, rate: 1Mbit, match: {host: two.example.com}}
"""


def test_hosts_that_share_a_connection_of_envoys_are_told_apart_request_by_request(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    world = meshed(topology, tmp_path, Mode.REDIRECT)
    body = tmp_path / "body"
    body.write_bytes(bytes(ANSWER))
    sidecar = start_sidecar(topology.pod, FOLLOWED, tmp_path, *IMPATIENT)
    for host in ("one", "two", "one"):
        name = f"{host}.example.com"
        world.curl("-f", "-T", str(body), "--resolve", f"{name}:80:{topology.server_ipv4}", f"http://{name}/{host}")
    assert sum(sum(counts.values()) for counts in seen(sidecar).values()) == 1, "one connection carried all"
    until("all to be counted", lambda: sidecar.classes()["one"]["bytes"] > 2 * ANSWER)
    assert ANSWER < sidecar.classes()["two"]["bytes"] < 2 * ANSWER


# --- what clients open -------------------------------------------------------------------------------------------------

BY_PORT = """
total: 200Mbit
classes:
  - {name: web, rate: 1Mbit, match: {port: 80, direction: inbound}}
  - {name: envoys, rate: 1Mbit, match: {port: 15006, direction: inbound}}
"""
BY_NAME = f"""
total: 200Mbit
classes:
  - {{name: service, rate: 1Mbit, match: {{host: {POD_SERVICE}, port: {SERVICE_PORT}, direction: inbound}}}}
  - {{name: plain, rate: 1Mbit, match: {{host: plain.example.com, direction: inbound}}}}
"""


class Clients:
    """The Pod's application, and who asks it: a Pod of the mesh, and somebody outside."""

    def __init__(self, world: MeshWorld, folder: Path) -> None:
        self._world = world
        self._address = str(world.topology.pod_link.a.ipv4)
        (start_nginx(world.topology.pod, folder).root / "answer").write_bytes(bytes(ANSWER))

    def of_the_mesh(self) -> None:
        host = f"{POD_SERVICE}:{SERVICE_PORT}"
        self._get(self._world.peer_envoy.host, f"http://{host}/answer", f"{host}:{VIRTUAL}")

    def outside(self) -> None:
        self._get(
            self._world.topology.server, "http://plain.example.com/answer", f"plain.example.com:80:{self._address}"
        )

    def _get(self, host: Host, url: str, resolve: str) -> None:
        got = host.run(
            ["curl", "-sS", "--max-time", "15", "--resolve", resolve, "-o", "/dev/null", "-w", "%{size_download}", url]
        )
        assert int(got.stdout) == ANSWER


@pytest.mark.parametrize("mode", Mode, ids=str)
def test_answers_have_their_class_by_the_port_that_clients_meant_and_stepping_aside_by_name(
    topology: PodNodeServer, tmp_path: Path, mode: Mode
) -> None:
    world = meshed(topology, tmp_path, mode)
    clients = Clients(world, tmp_path / "app")
    theirs = world.rules.saved()
    sidecar = start_sidecar(topology.pod, BY_PORT, tmp_path, *IMPATIENT)
    clients.outside()
    until("one answer to be counted", lambda: sidecar.classes()["web"]["bytes"] > ANSWER)
    clients.of_the_mesh()
    until("both to be counted", lambda: sidecar.classes()["web"]["bytes"] > 2 * ANSWER)
    assert sidecar.classes()["envoys"]["bytes"] == 0
    assert sidecar.stop() == 0
    world.peer_envoy.restart()  # a connection of its own for what comes

    sidecar = start_sidecar(topology.pod, BY_NAME, tmp_path, "--datapath", "step-aside", *IMPATIENT)
    clients.of_the_mesh()
    clients.outside()
    assert seen(sidecar) == {"service": {"tls": 1}, "plain": {"http1": 1}, "default": {}}
    until("both answers to be counted", lambda: all(answered(sidecar, name) for name in ("service", "plain")))
    # What the kubelet asks Istio's agent is neither shown nor held back.
    with (
        serving(topology.pod, lambda connection: connection.sendall(b"ready"), port=15021),
        connect(topology.node, str(topology.pod_link.a.ipv4), 15021) as probe,
    ):
        probe.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: plain.example.com\r\n\r\n")
        assert probe.recv(5) == b"ready"
    assert seen(sidecar)["plain"] == {"http1": 1}
    assert world.rules.saved() == theirs


@pytest.mark.parametrize("mode", Mode, ids=str)
def test_programs_tell_answers_by_the_port_that_clients_meant_and_by_name(
    topology: PodNodeServer, tmp_path: Path, mode: Mode
) -> None:
    require_programs()
    world = meshed(topology, tmp_path, mode)
    clients = Clients(world, tmp_path / "app")
    sidecar = start_sidecar(
        topology.pod, f"{BY_PORT}{BY_NAME[BY_NAME.index('  - ') :]}", tmp_path, "--datapath", "ebpf"
    )
    clients.outside()
    until("one answer to be counted", lambda: answered(sidecar, "web"))
    clients.of_the_mesh()
    until("both to be counted", lambda: sidecar.classes()["web"]["bytes"] > 2 * ANSWER)
    sidecar.reload(BY_NAME)
    world.peer_envoy.restart()  # a connection of its own for what comes
    clients.of_the_mesh()
    clients.outside()
    until_seen(sidecar, {"service": {"tls": 1}, "plain": {"http1": 1}, "default": {}})
    until("both answers to be counted", lambda: all(answered(sidecar, name) for name in ("service", "plain")))
    assert sidecar.stop() == 0
    clients.outside()


def answered(sidecar: RunningSidecar, name: str) -> bool:
    """Whether a whole answer has left in a class."""
    return bool(sidecar.classes()[name]["bytes"] > ANSWER)


def test_the_relay_refuses_names_of_what_clients_open(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(BY_NAME)
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--mesh", "istio")
    assert code == 2
    assert "Class service: Beside Istio inbound matches by sni, host or alpn are not for the relay" in said
