"""The benchmark of abuse: what is sent, what is made of figures, its command line."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner
from scapy.layers.inet import IP

from benchmarks.abuse.arena import POLICY, Abused
from benchmarks.abuse.clients.half_open import syn
from benchmarks.abuse.clients.hello import beginning
from benchmarks.abuse.clients.http2 import Speaker
from benchmarks.abuse.figures import ASIDE, RELAY, Size, broken, document, honest_figures
from benchmarks.abuse.readings import kernel_kib
from benchmarks.abuse.run import Plan
from benchmarks.abuse.scenarios import SCENARIOS
from benchmarks.analysis import Analysis
from benchmarks.cli import main
from benchmarks.errors import MeasurementError
from benchmarks.processes import Growth, process_tree
from benchmarks.results import Results, Sample
from benchmarks.stage import HTTP2_PORT
from datapath.protocols.detect import Detector
from datapath.protocols.http2_requests import Http2Cutter
from datapath.protocols.requests import AMBIGUOUS
from datapath.routing.flow import Destination
from datapath.routing.table import RoutingTable
from traffic_policy.policy import Bound, Requests, TransportProtocol
from traffic_policy.policy_file import policy_from_document

MACHINE = dict.fromkeys(
    ("date", "processor", "cpus", "memory", "kernel", "system", "python", "nginx", "load before"), "?"
)
FACTS = {"rounds": 1, "seconds": 30.0, "rate": 500.0, "scale": 1.0}


def analysis(*samples: Sample) -> Analysis:
    return Analysis(Results(MACHINE, FACTS, samples=list(samples), complete=True))


def test_a_syn_is_one_with_a_right_checksum() -> None:
    packet = syn(socket.inet_aton("198.18.0.1"), 1234, socket.inet_aton("10.0.0.2"), 80, 99)
    told = IP(packet)
    assert (told.src, told.dst, told["TCP"].dport, str(told["TCP"].flags)) == ("198.18.0.1", "10.0.0.2", 80, "S")
    sent = told["TCP"].chksum
    del told["TCP"].chksum
    assert IP(bytes(told))["TCP"].chksum == sent


@pytest.mark.parametrize("size", [1, 5, 6, 20_000, 60_000])
def test_a_beginning_leaves_the_detector_waiting(size: int) -> None:
    assert len(beginning(size)) == size
    assert Detector().feed(beginning(size)) is None


@pytest.mark.parametrize(
    ("kind", "given_up"),
    [("rapid-reset", False), ("continuation", True), ("settings", False), ("ping", False), ("hpack-bomb", False), ("empty-data", False)],
)  # fmt: skip
def test_floods_of_frames_are_what_they_say(kind: str, given_up: bool) -> None:
    """The cutter by itself gives up what is no HTTP/2; the rest is for who knows the time."""
    speaker, cutter = Speaker("web.example.com", "/", kind), Http2Cutter()
    cutter.feed(speaker.greeting)
    pieces = cutter.feed(speaker.more()[:4096])
    assert any(piece.begins is AMBIGUOUS for piece in pieces) == given_up


def test_promises_are_kept_or_not() -> None:
    kept = Sample(1, RELAY, "descriptors", {"cpu_share": 0.01, "after_error_share": 0.0, "descriptors_left": 0.0})
    spins = Sample(1, RELAY, "descriptors", {"cpu_share": 1.0, "after_error_share": 0.0, "descriptors_left": 0.0})
    wanted = {"descriptors": SCENARIOS["descriptors"]}
    assert broken(analysis(kept), wanted) == []
    assert broken(analysis(spins), wanted) == ["descriptors (relay): CPU meanwhile: 1, above 0.05."]
    text = document(analysis(spins), wanted)
    assert "| descriptors | relay | CPU meanwhile | ≤ 0.05 | 1 | **not kept** |" in text
    assert "| descriptors | relay | descriptors left over | ≤ 64 | 0 | kept |" in text
    assert "**not kept**" not in document(analysis(kept), wanted)


def test_a_promise_may_be_of_at_least_so_many() -> None:
    figures = {"error_share": 0.0, "growth_mib": 1.0, "after_error_share": 0.0}
    followed = Sample(1, RELAY, "http2-settings", figures | {"given_up": 10.0})
    not_followed = Sample(1, RELAY, "http2-settings", figures | {"given_up": 0.0})
    wanted = {"http2-settings": SCENARIOS["http2-settings"]}
    assert broken(analysis(followed), wanted) == []
    assert broken(analysis(not_followed), wanted) == [
        "http2-settings (relay): connections no longer followed: 0, below 1."
    ]
    row = "| http2-settings | relay | connections no longer followed | ≥ 1 |"
    assert f"{row} 10 | kept |" in document(analysis(followed), wanted)
    assert f"{row} 0 | **not kept** |" in document(analysis(not_followed), wanted)


@pytest.mark.parametrize("requests", Requests)
def test_the_sidecar_runs_with_what_the_scenario_asks_for(requests: Requests) -> None:
    policy = policy_from_document(Abused((), requests).document(POLICY), source="the benchmark")
    assert policy.requests is requests
    strangers = Destination.parse("10.0.0.2", HTTP2_PORT, TransportProtocol.TCP, Bound.INBOUND)
    assert RoutingTable.from_policy(policy).requests_may_differ(strangers) == (requests is not Requests.FIRST)


def test_what_failed_is_told() -> None:
    failed = Sample(1, ASIDE, "crowd", {}, failure="nobody came")
    assert broken(analysis(failed), {"crowd": SCENARIOS["crowd"]}) == ["crowd (step-aside): nobody came"]


def test_what_honest_clients_say_becomes_figures() -> None:
    told = {"count": 200, "errors": 1, "first_error": "?", "p50": 1.0, "p99": 2.0, "maximum": 3.0}
    assert honest_figures(told) == {"honest": 200.0, "error_share": 0.005, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0}
    assert honest_figures({"count": 0, "errors": 0}) == {"honest": 0.0, "error_share": 0.0}


def test_the_kernels_memory_is_slabs_and_tcp_pages() -> None:
    sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 2 alloc 7 mem 3\nUDP: inuse 1 mem 9\n"
    assert kernel_kib("Slab: 900 kB\nSUnreclaim:        200 kB\n", sockstat) == 212


def test_a_plan_has_each_scenario_on_its_datapaths() -> None:
    plan = Plan((SCENARIOS["crowd"], SCENARIOS["places"]), (RELAY, ASIDE), 1, Size())
    assert [(s.name, d) for s, d in plan.pairs] == [("crowd", RELAY), ("crowd", ASIDE), ("places", RELAY)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scenario", "nothing"], "There is no nothing. There are: crowd, places"),
        (["--datapath", "nothing"], "There is no nothing. There are: relay, step-aside, injector."),
        (["--scenario", "places", "--datapath", "step-aside"], "places: on step-aside there is nothing to be seen of it."),
    ],
    ids=["scenario", "datapath", "both"],
)  # fmt: skip
def test_mistakes_on_the_command_line(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["abuse", *words])
    assert done.exit_code != 0
    assert said in done.output


SHARER = """
import os, sys
held = bytearray(b"x") * (24 << 20)
lasting, ours = os.pipe()
awake, theirs = os.pipe()
if not os.fork():
    os.close(ours)
    os.write(theirs, b".")
    os.read(lasting, 1)
    os._exit(0)
os.read(awake, 1)
print(flush=True)
sys.stdin.readline()
passing = bytearray(b"x") * (16 << 20)
del passing
print(flush=True)
sys.stdin.read()
os.close(ours)
os.wait()
"""


def test_growth_is_what_a_peak_has_more_and_nothing_that_a_fork_shares() -> None:
    argv = [sys.executable, "-S", "-c", SHARER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        pids = process_tree(process.pid)
        growth = Growth(pids)
        assert (len(pids), growth.mib()) == (2, pytest.approx(0, abs=1))
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert growth.mib() == pytest.approx(16, abs=1)
        assert Growth(pids).mib() == pytest.approx(0, abs=1), "an earlier peak counts"
        process.stdin.close()
    with pytest.raises(MeasurementError, match="has ended"):
        growth.mib()
