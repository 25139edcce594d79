"""Features measured for real: what clients open, several processes, and a whole short run of the command."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab import connect, serving
from sidecars import state_of

from benchmarks import results as benchmark_results
from benchmarks.analysis import Analysis
from benchmarks.candidates import Candidate
from benchmarks.features.catalogue import FEATURES
from benchmarks.metrics import Bench
from benchmarks.policies import wide
from benchmarks.processes import cpu_seconds
from benchmarks.stage import INTERFACE, PAGE, PAGE_BYTES, Placement, Stage
from podlane.netns.namespace import NAMES
from tc_core.compile.mark_tree import leaf_handle
from tc_core.rtnetlink.kernel import NetlinkKernel

pytestmark = [pytest.mark.root, pytest.mark.nightly, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
INBOUND = FEATURES["inbound"]


@pytest.fixture(scope="module")
def inbound() -> Iterator[Stage]:
    with Stage(Placement(0, 1), inbound=True) as made:
        yield made


def fetch(stage: Stage, host: str, scheme: str) -> str:
    return stage.asking.run(
        ["curl", "-sSk", "--max-time", "20", "--resolve", f"{host}:443:{stage.address}", "--resolve",
         f"{host}:80:{stage.address}", f"{scheme}://{host}{PAGE}"]
    ).stdout  # fmt: skip


def seen_address(stage: Stage) -> str:
    """Whom a program in the Pod takes for its client."""

    def say(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(connection.getpeername()[0].removeprefix("::ffff:").encode())

    with serving(stage.pod, say) as port, connect(stage.asking, stage.address, port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        return client.recv(100).decode()


@pytest.mark.parametrize("candidate", INBOUND.on.values(), ids=INBOUND.on)
def test_answers_to_a_tls_client_are_in_the_class_of_its_server_name(inbound: Stage, candidate: Candidate) -> None:
    """Otherwise a candidate would be measured that does less than the others."""
    policy = replace(wide(3), inbound=True)
    inbound.name_hosts(policy)
    for change in ("-N", "-X"):
        inbound.pod.run(["iptables", "-t", "nat", change, "used"])  # built-in chains stay once they have been used
    before = state_of(inbound.pod)
    with candidate.running(inbound, policy):
        assert fetch(inbound, policy.target.host, "https") == "x" * PAGE_BYTES
        assert fetch(inbound, "other.example.com", "http") == "x" * PAGE_BYTES
        with inbound.pod.namespace.entered(), NetlinkKernel() as kernel:
            counters = kernel.counters(INTERFACE)
        packets = {name: counters[leaf_handle(number)].packets for name, number in policy.ids.items()}
        assert seen_address(inbound) == inbound.topology.server_ipv4
    assert packets["web"] >= 3  # a handshake, an answer, an end
    assert packets["c1"] == packets["c2"] == 0
    assert state_of(inbound.pod) == before


def test_all_workers_are_counted(inbound: Stage) -> None:
    metric = INBOUND.metrics[0]
    inbound.name_hosts(metric.policy)
    with FEATURES["workers"].on["2"].running(inbound, metric.policy) as running:
        main, *others = running.pids()
        before = cpu_seconds([main]), cpu_seconds(others)
        outcome = metric.measure(Bench(inbound, metric.policy, running, 1))
        after = cpu_seconds([main]), cpu_seconds(others)
    of_main, of_others = (now - then for now, then in zip(after, before, strict=True))
    assert of_others > of_main, "it is the workers that relay"
    # What it says that a thousand cost; its clock ran a little shorter than ours.
    assert outcome.values["cpu_per_1000"] * outcome.values["per_s"] / 1000 == pytest.approx(
        of_main + of_others, rel=0.3
    )


def test_a_short_run_writes_json_a_table_and_a_plot(tmp_path: Path) -> None:
    options = ["--only", "access-log", "--rounds", "1", "--seconds", "1", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "features", *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.complete
    sides = [(s.round, s.candidate) for s in found.samples if s.metric == "conn"]
    assert sides == [(1, "access-log/off"), (1, "access-log/connections")]
    # On a machine that is busy with other work fifty TLS handshakes at once may take longer than there is time.
    assert {metric for _, metric, _ in Analysis(found).failures()} <= {"conn-tls"}
    ratio = Analysis(found).ratio("conn", "per_s", "access-log/connections", "access-log/off")
    assert ratio is not None
    assert ratio > 0
    assert "`--access-log connections`" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "features.svg").exists()
    assert not [path.name for path in NAMES.iterdir() if path.name.startswith(f"bench-{process.pid}-")]
