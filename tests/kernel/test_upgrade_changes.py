"""What is changed at the time of an upgrade: the datapath by it, and the policy while it is on its way."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from downward import Volume, format_map
from lab import connect, listen
from sidecars import RunningSidecar, children, start_annotated, start_sidecar, state_of
from test_upgrade import POLICY, REQUEST, clients, upgrade
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

NAMES = "[{name: host, rate: 1Mbit, match: {host: web.example.com}}, {name: video, rate: 1Mbit, match: {sni: video.example.com}}]"
"""The second one also asks for QUIC to be read."""


def annotations(**said: str) -> str:
    known = {"egress-bandwidth": "1G", "classes": NAMES} | {key.replace("_", "-"): text for key, text in said.items()}
    return format_map({f"podlane.io/{key}": text for key, text in known.items()})


def datapath(sidecar: RunningSidecar) -> str:
    return str(json.loads(sidecar.get("/classes"))["datapath"])


def queues(topology: PodNodeServer) -> list[str]:
    """The numbers of the NFQUEUEs that somebody has."""
    return [line.split()[0] for line in topology.pod.read("/proc/net/netfilter/nfnetlink_queue").splitlines()]


@pytest.mark.parametrize(("before", "after"), [("relay", "step-aside"), ("step-aside", "relay")])
def test_the_next_proxy_works_by_the_other_datapath(
    topology: PodNodeServer, tmp_path: Path, before: str, after: str
) -> None:
    """Both read QUIC from the same queue. What was relayed comes to its end first."""
    start_nginx(topology.server, tmp_path / "nginx")
    clean = state_of(topology.pod)
    volume = Volume(tmp_path / "pod", "annotations", annotations(datapath=before))
    sidecar = start_annotated(topology.pod, volume.file, tmp_path, "--log-level", "debug")
    assert queues(topology) == ["15101"]
    volume.write(annotations(datapath=after))
    until("it to be seen", lambda: "Not in force before the Pod is made anew" in sidecar.log.read_text())
    with listen(topology.server, port=8000) as listener, clients(topology) as met, ThreadPoolExecutor() as pool:
        with connect(topology.pod, topology.server_ipv4, 8000) as lasting:
            lasting.sendall(REQUEST)
            served, _ = listener.accept()
            with served:
                assert served.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
                until("some answers", lambda: met.answered > 20)
                upgrading = pool.submit(upgrade, sidecar)
                sign = "draining" if before == "relay" else "another proxy has taken over"
                until(sign, lambda: sign in sidecar.log.read_text())
                seen = met.answered
                until("some more answers", lambda: met.answered > seen + 20)
                served.sendall(b"late")
                assert lasting.recv(4, socket.MSG_WAITALL) == b"late"
                lasting.sendall(b"later")
                assert served.recv(5, socket.MSG_WAITALL) == b"later"
        assert upgrading.result(60)[0] == 0, sidecar.log.read_text()
        until("a class by name", lambda: sidecar.connections("host"))
    assert met.failures == []
    assert datapath(sidecar) == after
    until("the queue", lambda: queues(topology) == ["15101"])
    assert sidecar.get("/healthz") == "ok\n"
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean


def test_closed_lets_nothing_go_direct_for_another_datapath(topology: PodNodeServer, tmp_path: Path) -> None:
    volume = Volume(tmp_path / "pod", "annotations", annotations(on_failure="closed"))
    sidecar = start_annotated(topology.pod, volume.file, tmp_path)
    before, proxy = state_of(topology.pod), sidecar.proxy
    volume.write(annotations(on_failure="closed", datapath="step-aside"))
    code, said = upgrade(sidecar)
    assert (code, "the old one goes on. The new one is to work by step-aside" in said) == (1, True), said
    assert (sidecar.proxy, state_of(topology.pod)) == (proxy, before)
    volume.write(annotations(on_failure="closed", egress_bandwidth="2G"))
    until("the old one to follow its policy", lambda: json.loads(sidecar.get("/policy"))["policy"]["total"] == "2Gbit")
    assert sidecar.stop() == 0


@pytest.mark.parametrize("heir_fails", [False, True], ids=["it takes over", "it fails"])
def test_a_policy_that_changes_meanwhile_is_put_in_force_by_whoever_goes_on(
    topology: PodNodeServer, tmp_path: Path, heir_fails: bool
) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, watch=True)
    earlier, before = sidecar.proxy, state_of(topology.pod)
    with ThreadPoolExecutor() as pool:
        upgrading = pool.submit(upgrade, sidecar)
        [heir] = until("an heir", lambda: [each for each in children(sidecar.process.pid) if each != earlier])
        os.kill(heir, signal.SIGSTOP)
        sidecar.policy.write_text(POLICY.replace("name: host", "name: other"))
        sidecar.process.send_signal(signal.SIGHUP)

        def uptime() -> float:
            return float(json.loads(sidecar.get("/classes"))["uptime_seconds"])

        enough = uptime() + 2.5  # it looks at its files once per second, and when it is told
        until("it to have looked", lambda: uptime() > enough)
        assert set(sidecar.classes()) == {"host", "default"}
        assert state_of(topology.pod) == before
        assert "policy in force" not in sidecar.log.read_text()
        os.kill(heir, signal.SIGKILL if heir_fails else signal.SIGCONT)
        code, said = upgrading.result(60)
    assert (code, "the old one goes on" in said) == ((1, True) if heir_fails else (0, False)), said
    until("the other policy", lambda: set(sidecar.classes()) == {"other", "default"})
    alone = [earlier if heir_fails else heir]
    until("the end of the other proxy", lambda: children(sidecar.process.pid) == alone)  # it drains, and then ends
    assert sidecar.stop() == 0
