"""Rates through the whole path: capture, detection, marked socket, HTB. Goodput is what the receiver got."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from lab import connect, serving
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from sidecars import start_sidecar
from uploads import http_upload, pushing, receiving

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.measure]


@contextmanager
def uploading(topology: PodNodeServer, meter: Meter, host: str, connections: int = 1) -> Iterator[None]:
    """Uploads with a Host header that never end, until the block does."""
    with serving(topology.server, receiving(meter)) as port, ExitStack() as stack:
        for _ in range(connections):
            connection = connect(topology.pod, topology.server_ipv4, port)
            stack.enter_context(pushing(connection, http_upload(host)))
        yield


@pytest.mark.alone
def test_each_class_is_held_to_its_ceil(topology: PodNodeServer, tmp_path: Path) -> None:
    """1, 10, 100 and 500 Mbit/s at the same time, told apart by Host; unused bandwidth is borrowed up to the ceil."""
    ceils = (1, 10, 100, 500)
    classes = "\n".join(
        f"  - {{name: c{c}, rate: 500kbit, ceil: {c}Mbit, match: {{host: c{c}.example.com}}}}" for c in ceils
    )
    start_sidecar(topology.pod, f"total: 1Gbit\nclasses:\n{classes}\n", tmp_path)
    best = dict.fromkeys(ceils, 0.0)
    for _ in range(ATTEMPTS):
        meters = {c: Meter() for c in ceils if best[c] < 0.95}
        with ExitStack() as stack:
            for c, meter in meters.items():
                stack.enter_context(uploading(topology, meter, f"c{c}.example.com"))
            measured = {c: meter.megabits / (c * PAYLOAD_SHARE) for c, meter in meters.items()}
        print({f"{c} Mbit/s": f"{share:.3f} of what headers leave" for c, share in measured.items()})
        assert max(measured.values()) <= 1.05
        best.update(measured)
        if min(best.values()) >= 0.95:
            return
    pytest.fail(f"not within 5 % of the ceil in {ATTEMPTS} attempts: {best}")


def test_a_guarantee_holds_while_another_class_saturates(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = """
total: 50Mbit
classes:
  - {name: kept, rate: 30Mbit, ceil: 50Mbit, priority: 7, match: {host: kept.example.com}}
  - {name: greedy, rate: 5Mbit, ceil: 50Mbit, priority: 0, match: {host: greedy.example.com}}
"""
    start_sidecar(topology.pod, policy, tmp_path)
    for _ in range(ATTEMPTS):
        greedy, kept = Meter(), Meter()
        with uploading(topology, greedy, "greedy.example.com", 4), uploading(topology, kept, "kept.example.com"):
            share = kept.megabits / (30 * PAYLOAD_SHARE)
            together = (kept.megabits + greedy.megabits) / (50 * PAYLOAD_SHARE)
        print(f"guarantee kept: {share:.3f}, link used: {together:.3f}")
        assert together <= 1.05
        if share >= 0.95 and together >= 0.95:
            return
    pytest.fail(f"the guarantee was not kept in {ATTEMPTS} attempts: {share:.3f} of it, {together:.3f} of the link")
