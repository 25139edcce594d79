"""Downloads where CAP_BPF is missing: the relay holds its connections by reading no faster, the kernel all others."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from downloads import (
    SIZE,
    Resent,
    answering,
    counted,
    download,
    endless,
    http,
    received,
    serving_endlessly,
    uploading,
)
from lab import serving
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from sidecars import NO_CAP_BPF, start_sidecar, state_of

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

RATES = (10, 100)


@pytest.mark.measure
@pytest.mark.parametrize("workers", [1, 2])
def test_classes_by_name_keep_their_ceils_at_once(topology: PodNodeServer, tmp_path: Path, workers: int) -> None:
    """Two connections each, which the kernel may give to one worker or to both."""
    lanes = "\n".join(
        f"  - {{name: c{c}, rate: 500kbit, ingress: {{rate: 500kbit, ceil: {c}Mbit}}, match: {{host: c{c}.example.com}}}}"
        for c in RATES
    )
    policy = f"total: 1Gbit\ningress: {{total: 1Gbit}}\nclasses:\n{lanes}\n"
    sidecar = start_sidecar(topology.pod, policy, tmp_path, "--workers", str(workers), wrapped=NO_CAP_BPF)
    measured: dict[int, float] = {}
    with serving_endlessly(topology) as port:
        for _ in range(ATTEMPTS):
            meters = {c: Meter() for c in RATES}
            with ExitStack() as stack:
                for c, meter in meters.items():
                    for _ in range(2):
                        stack.enter_context(http(topology, f"c{c}.example.com", meter, port))
                for meter in meters.values():
                    assert meter.settled.wait(30)
                resent = Resent(topology.server)
                measured = {c: meter.megabits / (c * PAYLOAD_SHARE) for c, meter in meters.items()}
                again = resent.share
            print(measured, f"sent twice: {again:.4f}")
            assert max(measured.values()) <= 1.05
            assert again <= 0.01
            if min(measured.values()) >= 0.95:
                break
        else:
            pytest.fail(f"not within 5 % of the ceil in {ATTEMPTS} attempts: {measured}")
    seen = received(sidecar)
    assert all(seen[f"c{c}"]["bytes"] > c * 125_000 for c in RATES)
    assert seen["default"]["bytes"] < 100_000


@pytest.mark.measure
def test_a_guarantee_holds_beside_what_is_relayed_and_what_is_not(topology: PodNodeServer, tmp_path: Path) -> None:
    """Within what the relay shares out, and of the relayed against what goes past the relay; all keep to the total."""
    start_sidecar(topology.pod, """
total: 1Gbit
ingress: {total: 50Mbit}
classes:
  - {name: past, rate: 1Mbit, priority: 0, ingress: {rate: 1Mbit}, match: {port: 7000}}
  - {name: kept, rate: 1Mbit, priority: 7, ingress: {rate: 30Mbit}, match: {host: kept.example.com}}
  - {name: greedy, rate: 1Mbit, priority: 0, ingress: {rate: 5Mbit, ceil: 15Mbit}, match: {host: greedy.example.com}}
""", tmp_path, wrapped=NO_CAP_BPF)  # fmt: skip
    share = together = 0.0
    with serving_endlessly(topology) as port, serving(topology.server, endless, 7000) as other:
        for _ in range(ATTEMPTS):
            kept, past, *greedy = meters = [Meter() for _ in range(4)]
            with ExitStack() as stack:
                for meter in meters:
                    name = "kept" if meter is kept else "greedy"
                    to = other if meter is past else port
                    stack.enter_context(http(topology, f"{name}.example.com", meter, to))
                share = kept.megabits / (30 * PAYLOAD_SHARE)
                together = sum(m.megabits for m in meters) / (50 * PAYLOAD_SHARE)
                greed = sum(m.megabits for m in greedy) / (15 * PAYLOAD_SHARE)
            print(f"guarantee kept: {share:.3f}, of the total: {together:.3f}, of the greedy one's ceil: {greed:.3f}")
            assert together <= 1.05
            assert greed <= 1.05
            if share >= 0.95 and together >= 0.95:
                return
    pytest.fail(f"the guarantee was not kept in {ATTEMPTS} attempts: {share:.3f} of it, {together:.3f} of the total")


POLICY = """
total: 1Gbit
ingress: {total: 1Gbit}
classes:
  - {name: named, rate: 1Mbit, ingress: {rate: 1Mbit, ceil: 100Mbit}, match: {host: a.example.com}}
  - {name: ported, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 7000-7009}}
  - {name: silent, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 5432}}
"""


def test_every_kind_of_connection_counts_for_its_class_and_nothing_is_left(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    before = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--workers", "2", wrapped=NO_CAP_BPF)
    with ExitStack() as servers:
        port, ported, silent = (servers.enter_context(serving(topology.server, answering, p)) for p in (0, 7000, 5432))
        document = json.loads(sidecar.get("/policy"))
        assert document["received"]["names_told_by"] == "pacing"
        assert document["classes"][0]["received"]["in_relay"]["ceil"] == "100Mbit"
        assert "the relay holds the connections that it relays itself" in sidecar.log.read_text()
        for to, host, name in (
            (port, "a.example.com", "named"),
            (port, "b.example.com", "default"),
            # Relayed, since a name could have decided; and one that is not, since its server speaks first.
            (ported, "b.example.com", "ported"),
            (silent, "b.example.com", "silent"),
        ):
            seen = received(sidecar)
            download(topology, to, host)
            counted(sidecar, name, seen[name]["bytes"] + SIZE)
            now = received(sidecar)
            for other in seen.keys() - {name}:
                assert now[other]["bytes"] - seen[other]["bytes"] < 100_000, other
            assert now[name]["bytes"] - seen[name]["bytes"] < 1.2 * SIZE, "counted once"
        download(topology, port, "a.example.com", address=topology.server_ipv6)
        counted(sidecar, "named", 2 * SIZE)
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == before


def test_what_clients_upload_is_held(topology: PodNodeServer, tmp_path: Path) -> None:
    meter = Meter(2.0)

    def program(connection: socket.socket) -> None:
        while size := len(connection.recv(1 << 18)):
            meter.count(size)

    with serving(topology.pod, program) as port:
        sidecar = start_sidecar(topology.pod, f"""
total: 1Gbit
ingress: {{total: 1Gbit}}
classes:
  - {{name: up, rate: 1Mbit, ingress: {{rate: 1Mbit, ceil: 40Mbit}}, match: {{host: up.example.com, port: {port}, direction: inbound}}}}
""", tmp_path, wrapped=NO_CAP_BPF)  # fmt: skip
        with uploading(topology, port):
            assert meter.megabits <= 1.05 * 40 * PAYLOAD_SHARE
        assert received(sidecar)["up"]["bytes"] > 40 * 125_000


def test_limits_come_and_go_with_the_policy(topology: PodNodeServer, tmp_path: Path) -> None:
    without = "total: 1Gbit\nclasses: [{name: named, rate: 1Mbit, match: {host: a.example.com}}]"
    sidecar = start_sidecar(topology.pod, without, tmp_path, "--workers", "2", wrapped=NO_CAP_BPF)
    meter = Meter()
    with serving_endlessly(topology) as port, http(topology, "a.example.com", meter, port):
        meter.wait_for_more()
        sidecar.reload(POLICY.replace("100Mbit", "1Mbit"))
        first = received(sidecar)["named"]["bytes"]
        counted(sidecar, "named", first + 200_000)
        assert received(sidecar)["named"]["current_rate_bits_per_second"] < 5_000_000
        before = meter.total
        sidecar.reload(without)
        assert json.loads(sidecar.get("/classes"))["received"] is None
        while meter.total < before + 50_000_000:
            meter.wait_for_more()


def test_ports_alone_need_no_pacing(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(
        topology.pod,
        "{total: 1Gbit, ingress: {total: 20Mbit}, classes: [{name: p, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 80}}]}",
        tmp_path, wrapped=NO_CAP_BPF,
    )  # fmt: skip
    assert json.loads(sidecar.get("/classes"))["received"]["names_told_by"] is None
    with serving(topology.server, answering, 80) as port:
        download(topology, port, "a.example.com")
        counted(sidecar, "p", SIZE)
