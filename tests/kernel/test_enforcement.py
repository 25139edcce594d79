"""What another program removes is put back, within seconds and a bounded number of times."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from sidecars import RunningSidecar, enforced, start_sidecar
from waiting import until

from datapath.enforcement import MOST_REPAIRS
from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: host, rate: 1Mbit, ceil: 8Mbit, match: {host: web.example.com, direction: both}}
  - {name: port, rate: 2Mbit, match: {port: 8080}}
"""
WITHIN_S = 5.0
REMOVALS = {
    "iptables -t mangle -F": "rules",
    "ip6tables -t mangle -F": "rules",
    "iptables -t mangle -D OUTPUT 1": "rules",
    "iptables -t mangle -F PODLANE-CAPTURE": "rules",
    "ip rule del pref 15101": "routes",
    "ip -6 rule del pref 15101": "routes",
    "ip route flush table 15101": "routes",
    "tc qdisc del dev eth0 root": "classes",
    "tc class change dev eth0 parent 1:1 classid 1:101 htb rate 50mbit ceil 90mbit": "classes",
    "tc filter del dev eth0 parent 1:": "classes",
    "tc qdisc del dev eth0 clsact": "classes",
    "ip link del ifb-eth0": "classes",
}


def metric(sidecar: RunningSidecar, name: str) -> float:
    [line] = [each for each in sidecar.get("/metrics").splitlines() if each.startswith(f"{name} ")]
    return float(line.split()[1])


def counts(sidecar: RunningSidecar, name: str, number: float) -> bool:
    return metric(sidecar, name) == number


def all_there(pod: Host, complete: str) -> bool:
    return enforced(pod) == complete


@pytest.mark.parametrize("tables", ["nft", "legacy"])
def test_what_is_removed_comes_back(topology: PodNodeServer, tmp_path: Path, tables: str) -> None:
    pod = topology.pod
    if tables == "legacy":
        pod.run(["iptables-legacy", "-t", "mangle", "-N", "SOMEBODYS"])
        pod.run(["iptables-legacy", "-t", "mangle", "-A", "SOMEBODYS", "-j", "RETURN"])  # so it takes these tables
    sidecar = start_sidecar(pod, POLICY, tmp_path)
    try:
        complete = enforced(pod)
        assert "PODLANE" in complete
        late = {}
        for removal, part in REMOVALS.items():
            command = removal.replace("tables ", f"tables-{tables} ").split()
            counted = f'podlane_enforcement_repairs_total{{part="{part}"}}'
            repairs = metric(sidecar, counted)
            pod.run(command)
            began = time.monotonic()
            assert enforced(pod) != complete, removal
            until("a repair", partial(counts, sidecar, counted, repairs + 1))
            with suppress(AssertionError):
                until("all of it", partial(all_there, pod, complete))
            took = time.monotonic() - began
            print(f"{tables}: {removal}: {took:.2f} s")
            assert enforced(pod) == complete, removal
            if took > WITHIN_S:
                late[removal] = took
            until("an answer that all is well", lambda: sidecar.get("/healthz") == "ok\n")
            sidecar.reload(POLICY)  # begins a new row of losses
        assert not late
        if tables == "legacy":
            assert "legacy" in sidecar.log.read_text()
            assert ":SOMEBODYS" in pod.run(["iptables-legacy-save", "-t", "mangle"]).stdout
    finally:
        assert sidecar.stop() == 0


def test_who_removes_it_again_and_again_wins(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, POLICY, tmp_path)
    try:
        complete = enforced(pod)
        said = sidecar.log.read_text
        for number in range(MOST_REPAIRS):
            pod.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
            until(
                "a repair",
                lambda number=number: said().count("is put back") == number + 1 and enforced(pod) == complete,
            )
        pod.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
        until("the end of the fight", lambda: "it wins" in said())
        assert metric(sidecar, 'podlane_enforcement_repairs_total{part="classes"}') == MOST_REPAIRS
        assert metric(sidecar, "podlane_enforcement_lost") == 1
        assert "missing: tc qdisc add dev eth0 root" in sidecar.get("/healthz")
        assert sidecar.get("/readyz") == "not ready\n"
        asked = pod.run([sys.executable, "-m", "podlane", "ready"], check=False)
        assert (asked.returncode, asked.stderr) == (1, "podlane: Not everything is in force.\n")
        sidecar.reload(POLICY)
        assert enforced(pod) == complete
        assert sidecar.get("/readyz") == "ready\n"
        assert metric(sidecar, "podlane_enforcement_lost") == 0
    finally:
        assert sidecar.stop() == 0


def test_what_others_do_in_their_own_chains_is_theirs(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, POLICY, tmp_path)
    try:
        pod.run(["iptables", "-t", "mangle", "-N", "MESH"])
        pod.run(["iptables", "-t", "mangle", "-A", "MESH", "-j", "RETURN"])
        pod.run(["iptables", "-t", "mangle", "-I", "OUTPUT", "1", "-j", "MESH"])
        mine = enforced(pod)
        rule = next(each for each in mine.splitlines() if each.startswith("-A OUTPUT") and "PODLANE-OUT" in each)
        pod.run(["iptables", "-t", "mangle", *rule.replace("-A", "-D").split()])
        until("a repair", lambda: "is put back" in sidecar.log.read_text())
        until("the jump", lambda: rule in pod.run(["iptables-save", "-t", "mangle"]).stdout)
        log = sidecar.log.read_text()
        assert log.count("is put back") == 1, log
        assert "-A OUTPUT -j MESH" in mine
        assert "-A OUTPUT -j MESH" in enforced(pod)
    finally:
        assert sidecar.stop() == 0
