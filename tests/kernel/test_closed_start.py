"""``on-failure: closed`` and a start that fails: what names decide is refused until one succeeds."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event, Thread

import pytest
from fates import ask
from lab import connect, listen
from sidecars import refused_sidecar, start_sidecar, state_of
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
classes:
  - {name: port, rate: 1Mbit, match: {port: 9000}}
  - {name: host, rate: 1Mbit, match: {host: web.example.com}}
"""
PORTS_ONLY = "total: 100Mbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 9000}}]"
SAID = "connections that names decide are refused until a sidecar is ready here"


@pytest.fixture(autouse=True)
def web(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(POLICY)
    return path


FAILS = ("--admin-address", "192.0.2.77")
"""Options with which a start fails when the policy has been read: no address of the Pod."""


@pytest.mark.parametrize(
    "options", [[], ["--datapath", "step-aside"], ["--iptables", "python"]], ids=["relay", "step-aside", "by python"]
)
def test_a_first_start_that_fails_refuses_until_one_succeeds(
    topology: PodNodeServer, tmp_path: Path, policy: Path, options: list[str]
) -> None:
    """Once more, too: it finds what the first one has left."""
    clean = state_of(topology.pod)
    for _ in range(1 if "python" in options else 2):  # each of whose steps takes half a second
        code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--on-failure", "closed", *FAILS, *options)
        assert (code, SAID in said, "--admin-address" in said) == (1, True, True), said
        assert [ask(topology, family) for family in ("ipv4", "ipv6")] == ["refused", "refused"]
        with listen(topology.server, port=9000), connect(topology.pod, topology.server_ipv4, 9000, timeout=5):
            pass  # what ports decide is not touched
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *options)
    assert ask(topology) == "answered"
    assert sidecar.stop() == 0
    left = state_of(topology.pod)
    assert "PODLANE" not in left
    assert left == clean or "python" in options, "legacy tables, once used, stay"


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--interface", "eth9"], "eth9"), (["--access-log", "connections", "--access-log-file", "/no/such"], "/no/such")],
    ids=["no interface", "no access log"],
)
def test_it_does_not_matter_how_far_it_came(
    topology: PodNodeServer, policy: Path, option: list[str], words: str
) -> None:
    clean = state_of(topology.pod)
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--on-failure", "closed", *option)
    assert (code > 0, SAID in said, words in said) == (True, True, True), said
    assert ask(topology) == "refused"
    assert refused_sidecar(topology.pod, "--cleanup", "--policy", str(policy))[0] == 0
    assert ask(topology) == "answered"
    assert state_of(topology.pod) == clean


def test_what_an_earlier_sidecar_captured_is_refused_when_the_policy_cannot_be_read(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    killed = start_sidecar(topology.pod, POLICY, tmp_path, "--on-failure", "closed")
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    killed.policy.write_text("total: 5")
    for _ in range(2):
        code, said = refused_sidecar(topology.pod, "--policy", str(killed.policy), "--on-failure", "closed")
        assert (code, SAID in said) == (2, True), said
        assert ask(topology) == "refused"
    assert topology.pod.run(["iptables-save", "-t", "filter"]).stdout.count("-j PODLANE-REFUSE") == 2


def test_what_is_refused_for_step_aside_goes_to_the_relay_and_never_direct(
    topology: PodNodeServer, tmp_path: Path, policy: Path
) -> None:
    closed = ("--on-failure", "closed")
    assert refused_sidecar(topology.pod, "--policy", str(policy), *closed, *FAILS, "--datapath", "step-aside")[0] == 1
    assert ask(topology) == "refused"
    became: list[str] = []
    over = Event()

    def try_again_and_again() -> None:
        while not over.is_set():
            became.append(ask(topology, patience=0.3))

    trying = Thread(target=try_again_and_again)
    trying.start()
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *closed)
    over.set()
    trying.join()
    assert became.count("answered") <= sum(sidecar.connections("host").values())
    assert ask(topology) == "answered"
    assert sidecar.stop() == 0


def test_where_names_decide_nothing_there_is_nothing_to_refuse(topology: PodNodeServer, policy: Path) -> None:
    clean = state_of(topology.pod)
    policy.write_text(PORTS_ONLY)
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--on-failure", "closed", *FAILS)
    assert (code, SAID in said) == (1, False)
    assert state_of(topology.pod) == clean
