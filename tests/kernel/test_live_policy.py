"""A policy that changes while connections live: one contract for the relay, its workers and stepping aside.

The sidecar is told by nothing but its file. :mod:`test_live_policy_load` does the same a thousand times under load.
"""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from downward import Volume
from runs import RunHost
from sidecars import RunningSidecar, start_annotated, start_sidecar
from test_sidecar_annotations import API, annotations
from waiting import until, until_listening
from webserver import WebServer, start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

DATAPATHS = {
    "relay": [], "workers": ["--workers", "3"], "step-aside": ["--datapath", "step-aside"],
}  # fmt: skip
SLOW = "total: 100Mbit\nclasses: [{name: up, rate: 1Mbit, ceil: 4Mbit, match: {host: web.example.com}}]"
FASTER = SLOW.replace("ceil: 4Mbit", "ceil: 80Mbit")
RENAMED = FASTER.replace("name: up", "name: fast")
MOVED = """
total: 100Mbit
classes:
  - {name: all, rate: 1Mbit, ceil: 80Mbit, match: {host: "*.example.com"}}
  - {name: up, rate: 1Mbit, ceil: 4Mbit, match: {host: web.example.org}}
"""
REMOVED = """
total: 100Mbit
classes: [{name: other, rate: 1Mbit, match: {host: other.example.com}}]
default: {rate: 1Mbit, ceil: 80Mbit}
"""
BY_PORT = "total: 100Mbit\nclasses: [{name: port, rate: 1Mbit, ceil: %s, match: {port: 9050}}]"
WRONG = "total: 1Mbit\nclasses: [{name: up, rate: 5Mbit, match: {host: web.example.com}}]"


@pytest.fixture(params=DATAPATHS)
def datapath(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def begin_uploads(topology: PodNodeServer, folder: Path, number: int, size: int) -> list[subprocess.Popen[bytes]]:
    (folder / "body").write_bytes(random.Random(11).randbytes(size))
    send = ["curl", "-sS", "-f", "-T", str(folder / "body"), "-H", "Host: web.example.com", "-H", "Expect:"]
    url = f"http://{topology.server_ipv4}"
    return [topology.pod.popen([*send, f"{url}/u{each}"]) for each in range(number)]


def sends(sidecar: RunningSidecar, name: str, size: int) -> Callable[[], bool]:
    """Whether a class has sent some bytes since now."""
    before = sidecar.classes()[name]["bytes"]
    return lambda: sidecar.classes()[name]["bytes"] - before > size


@pytest.mark.parametrize(
    ("changed", "name"),
    [(FASTER, "up"), (RENAMED, "fast"), (MOVED, "all"), (REMOVED, "default")],
    ids=["other limits", "another class", "another class, and the old one stays", "no class any more"],
)
def test_live_connections_get_the_lanes_of_the_new_policy(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, datapath: str, changed: str, name: str
) -> None:
    """12 MB at 4 Mbit/s would take 24 s, and the uploads of an old lane would be seen in it."""
    sidecar = start_sidecar(topology.pod, SLOW, tmp_path, *DATAPATHS[datapath], watch=True)
    uploads = begin_uploads(topology, tmp_path, 4, 3_000_000)
    until("slow uploads", sends(sidecar, "up", 100_000))
    until("all four", lambda: sum(sidecar.connections("up").values()) == 4)
    said = sidecar.change(changed)
    assert "policy in force" in said
    assert ("live connections changed their class" in said) == (name != "up")
    in_new_lane = sends(sidecar, name, 5_000_000)
    in_old_lane = sends(sidecar, "up", 100_000) if name == "all" else lambda: False
    if datapath != "step-aside":  # which does not see how connections end
        connections = {each: c["connections"]["active"] for each, c in sidecar.classes().items()}
        assert connections == {each: 4 if each == name else 0 for each in connections}
    until("the uploads in their new lane", in_new_lane)
    assert not in_old_lane()
    assert [upload.wait(30) for upload in uploads] == [0] * 4
    for each in range(4):
        assert (web.root / f"u{each}").read_bytes() == (tmp_path / "body").read_bytes()
    if datapath != "step-aside":
        until("their end", lambda: sidecar.classes()[name]["connections"]["active"] == 0)
        counted = relayed(sidecar)
        assert set(counted) <= set(sidecar.classes())
        assert counted[name] > 6_000_000
        if name == "all":
            assert counted["up"] > 100_000, "what went in the old lane is counted there"
            assert sum(counted.values()) > 4 * 3_000_000


def relayed(sidecar: RunningSidecar) -> dict[str, float]:
    found = re.findall(
        r'^podlane_relayed_bytes_total{class="(.*)",direction="up"} (\S+)$', sidecar.get("/metrics"), re.M
    )
    return {name: float(number) for name, number in found}


def test_connections_that_the_kernel_classifies_follow_by_themselves(topology: PodNodeServer, tmp_path: Path) -> None:
    sink = "import socket; s=socket.create_server(('', 9050)); c,_=s.accept()\nwhile c.recv(65536): pass"
    topology.server.popen([sys.executable, "-c", sink])
    until_listening(topology.server, 9050)
    sidecar = start_sidecar(topology.pod, BY_PORT % "4Mbit", tmp_path, watch=True)
    send = "import socket,sys; s=socket.create_connection((sys.argv[1], 9050)); s.sendall(bytes(12_000_000)); s.shutdown(1); print(s.recv(1))"
    upload = topology.pod.popen([sys.executable, "-c", send, topology.server_ipv4], stdout=subprocess.PIPE)
    until("a slow upload", sends(sidecar, "port", 100_000))
    sidecar.change((BY_PORT % "80Mbit").replace("name: port", "name: other"))
    until("the upload in its new lane", sends(sidecar, "other", 5_000_000))
    assert upload.communicate(timeout=30)[0] == b"b''\n"


# --- a policy that is refused ----------------------------------------------------------------------------------------


def metrics(sidecar: RunningSidecar, prefix: str) -> dict[str, str]:
    lines = (line.rsplit(" ", 1) for line in sidecar.get("/metrics").splitlines() if line.startswith(prefix))
    return dict(lines)


def test_a_refused_policy_is_seen_where_one_looks(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    sidecar = start_sidecar(topology.pod, SLOW, tmp_path, *DATAPATHS[datapath], watch=True)
    before = metrics(sidecar, "podlane_policy_i")
    assert metrics(sidecar, "podlane_policy_refused") == {"podlane_policy_refused": "0.0"}
    said = sidecar.change(WRONG)
    reason = "Cannot guarantee 5 Mbit/s inside 1 Mbit/s"
    assert "the new policy is not used; the old one stays in force" in said
    assert reason in said
    health = topology.pod.run(["curl", "-sS", "-w", "%{http_code}", "http://127.0.0.1:15109/healthz"]).stdout
    assert health.startswith("ok\nThe policy read at 20")
    assert reason in health
    assert health.endswith("200"), "traffic is fine"
    assert sidecar.get("/readyz") == "ready\n"
    assert metrics(sidecar, "podlane_policy_refused") == {"podlane_policy_refused": "1.0"}
    assert metrics(sidecar, "podlane_policy_i") == before, "hash and time of the policy in force"
    assert sidecar.classes()["up"]["ceil_bits_per_second"] == 4_000_000
    assert "policy in force" in sidecar.change(FASTER)
    assert sidecar.get("/healthz") == "ok\n"
    assert metrics(sidecar, "podlane_policy_re") == {
        "podlane_policy_refused": "0.0",
        'podlane_policy_reloads_total{result="applied"}': "1.0",
        'podlane_policy_reloads_total{result="refused"}': "1.0",
        'podlane_policy_reloads_total{result="failed"}': "0.0",
    }
    after = metrics(sidecar, "podlane_policy_i")
    assert not {name for name in before if "hash" in name} & after.keys()


def test_a_policy_that_cannot_be_put_in_force_is_taken_back_whole(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, BY_PORT % "4Mbit", tmp_path, watch=True)
    with topology.pod.namespace.entered():
        taken = socket.create_server(("127.0.0.1", 15101))
    with taken:
        assert "not used" in sidecar.change(SLOW)
        assert set(sidecar.classes()) == {"port", "default"}
        assert metrics(sidecar, 'podlane_policy_reloads_total{result="failed"') == {
            'podlane_policy_reloads_total{result="failed"}': "1.0"
        }
        assert "15101" in sidecar.get("/healthz")
    seen = sidecar.log.stat().st_size
    sidecar.process.send_signal(signal.SIGHUP)
    until("the second try", lambda: "policy in force" in sidecar.log.read_text()[seen:])
    assert sidecar.get("/healthz") == "ok\n"


# --- how the file changes --------------------------------------------------------------------------------------------


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """``source`` mounted over ``target``, as `docker run -v FILE:FILE` and a subPath do."""
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def test_a_file_that_is_mounted_is_watched_where_it_is_written(topology: PodNodeServer, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "policy.yaml").write_text(SLOW)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/policy.yaml").touch()
    with bound(outside / "policy.yaml", tmp_path / "inside/policy.yaml"):
        sidecar = start_sidecar(topology.pod, SLOW, tmp_path / "inside", watch=True)
        (outside / "policy.yaml").write_text(FASTER)
        until("the new limit", lambda: sidecar.classes()["up"]["ceil_bits_per_second"] == 80_000_000)
        assert sidecar.stop() == 0


def test_a_shared_policy_is_watched_as_the_kubelet_changes_it(topology: PodNodeServer, tmp_path: Path) -> None:
    shared = "total: 50Mbit\nclasses: [{name: web, rate: %s, match: {host: web.example.org}}]\n"
    pod = Volume(tmp_path / "pod", "annotations", annotations(policy="lanes", classes=API))
    lanes = Volume(tmp_path / "policy", "lanes/policy.yaml", shared % "5Mbit")
    sidecar = start_annotated(topology.pod, pod.file, tmp_path, "--shared-policy", str(lanes.folder))
    for rate in ("6Mbit", "7Mbit"):
        lanes.write(shared % rate)
        until("the new rate", lambda r=rate: f"{sidecar.classes()['web']['rate_bits_per_second'] // 10**6}Mbit" == r)


def test_a_run_follows_its_policy_file(runs: RunHost) -> None:
    process = runs.start("echo up; read _")
    text = runs.policy.read_text()
    assert "ceil: 80Mbit" in text
    fresh = runs.policy.with_name("fresh.yaml")
    fresh.write_text(text.replace("ceil: 80Mbit", "ceil: 70Mbit"))
    fresh.replace(runs.policy)
    until("the new limit", lambda: "ceil 70Mbit" in runs.namespace.run(["tc", "class", "show", "dev", "eth0"]).stdout)
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def test_without_watching_only_a_signal_changes_anything(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, SLOW, tmp_path)
    descriptors = [link.readlink() for link in Path(f"/proc/{sidecar.proxy}/fd").iterdir()]
    assert not [each for each in descriptors if "inotify" in str(each)]
    sidecar.reload(FASTER)
    assert sidecar.classes()["up"]["ceil_bits_per_second"] == 80_000_000


@pytest.mark.parametrize("number", [10, 200])
def test_how_long_a_change_takes_is_told(topology: PodNodeServer, tmp_path: Path, number: int) -> None:
    """Every class changes its ceil. Not the slowest of a few: other programs want the processors, too."""

    def policy(ceil: int) -> str:
        each = "  - {{name: c{0}, rate: 100kbit, ceil: {1}Mbit, match: {{host: h{0}.example.com}}}}"
        return "\n".join(["total: 1Gbit", "classes:", *(each.format(i, ceil) for i in range(number))])

    sidecar = start_sidecar(topology.pod, policy(10), tmp_path, watch=True)
    seconds = []
    for ceil in range(11, 22):
        begun = time.monotonic()
        assert "policy in force" in sidecar.change(policy(ceil))
        seconds.append(time.monotonic() - begun)
    assert sidecar.classes()[f"c{number - 1}"]["ceil_bits_per_second"] == 21_000_000
    print(number, "classes:", [round(each, 3) for each in seconds])
    assert sorted(seconds)[len(seconds) // 4] < 5.0, "a collapse"
