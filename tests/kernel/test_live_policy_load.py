"""A thousand changes of the policy under load, told to the sidecar by nothing but its file.

A witness below the queues sees every packet that leaves. Some flows want more than they may have, so that what left
unshaped would be seen; others send far less, so that what is dropped would be missed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from lab import serving
from sidecars import RunningSidecar, start_sidecar
from waiting import until
from witness import most_within, witnessing

from podlane.netns.topology import PodNodeServer
from tc_core.compile.queues import fifo_limit
from traffic_policy.units import Rate

pytestmark = [pytest.mark.root, pytest.mark.alone]

DATAPATHS = {
    "relay": (1000, []), "workers": (150, ["--workers", "2"]), "step-aside": (150, ["--datapath", "step-aside"]),
}  # fmt: skip
"""How many changes, and the options."""
WARM = 100
"""Changes after which everything is there that stays."""
WINDOW = 0.2
"""Seconds in which no flow may send more than its lane allows."""
TOLERANCE = 1.05
TCP, UDP = 6, 17
STEADY, WEB, MOVING, PING, STREAM, LATE = 9001, 9002, 9003, 9004, 7000, 7100
CLIENTS = Path(__file__).parent / "clients"
SMALL_BURST = 4000
FRESH_BURST = 2 * 1514
GROWTH_KIB = 4096
"""Names that were never there before fill caches, which are bounded: 1 MiB in 900 changes. A policy that stayed in memory
each time would be 900 times 20 KiB."""


def policy(number: int) -> str:
    """One of ever different policies: limits change, classes come and go under new names, names change their class."""
    even = number % 2 == 0
    late = number // 10
    lines = [
        "total: 200Mbit",
        "default: {rate: 1Mbit, ceil: 5Mbit, burst: 4kB}",
        "classes:",
        f"  - {{name: steady, rate: 1Mbit, ceil: 8Mbit, match: {{protocol: tcp, port: {STEADY}}}}}",
        f"  - {{name: stream, rate: {1 + number % 2}Mbit, ceil: 2Mbit, match: {{protocol: udp, port: {STREAM}}}}}",
        f"  - {{name: web, rate: 1Mbit, ceil: {6 if even else 12}Mbit, match: {{host: web.example.com}}}}",
        f"  - {{name: m{number}, rate: 1Mbit, ceil: 5Mbit, burst: 4kB, match: {{host: moving.example.com}}}}",
        f"  - {{name: left, rate: 1Mbit, ceil: 2Mbit, match: {{host: {'ping' if even else 'no'}.example.com}}}}",
        f"  - {{name: right, rate: 1Mbit, ceil: 2Mbit, match: {{host: {'no' if even else 'ping'}.example.com}}}}",
    ]
    if late % 3:
        lines.append(f"  - {{name: late{late}, rate: 1Mbit, ceil: 2Mbit, match: {{protocol: udp, port: {LATE}}}}}")
    lines += [
        f"  - {{name: extra{each}, rate: 8kbit, match: {{host: x{each}.example.com}}}}" for each in range(number % 5)
    ]
    return "\n".join(lines)


def wide(number: int) -> str:
    """The same lanes without limits to speak of, so that what waits gets away."""
    return re.sub(r"ceil: \d+Mbit", "ceil: 200Mbit", policy(number))


def count(connection: socket.socket) -> None:
    """Read to the end, say how much it was."""
    size = 0
    while data := connection.recv(1 << 18):
        size += len(data)
    connection.sendall(str(size).encode())


def echo(connection: socket.socket) -> None:
    while data := connection.recv(4096):
        connection.sendall(data)


@contextmanager
def numbers_received(topology: PodNodeServer, port: int) -> Iterator[list[int]]:
    """The numbers of datagrams, as they arrive."""
    with topology.server.namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    got: list[int] = []
    over = threading.Event()

    def receive() -> None:
        while not over.is_set():
            try:
                got.append(int.from_bytes(sock.recv(2048)[:4], "big"))
            except TimeoutError:
                continue

    with sock:
        sock.bind(("", port))
        sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: this process may be slow
        sock.settimeout(0.1)
        thread = threading.Thread(target=receive)
        thread.start()
        try:
            yield got
        finally:
            over.set()
            thread.join()


class Flow:
    """A client program that goes on until it is told to end."""

    def __init__(self, topology: PodNodeServer, program: str, *arguments: object) -> None:
        command = [sys.executable, str(CLIENTS / program), topology.server_ipv4, *map(str, arguments)]
        self.process = topology.pod.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self) -> int:
        """What it prints. Fails when it went wrong, as it does when its connection is cut."""
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return int(said)


def resources_of(sidecar: RunningSidecar) -> tuple[int, int]:
    """Resident memory in KiB, and open descriptors: without pipes, which the relay keeps some of for bulk."""
    status = Path(f"/proc/{sidecar.proxy}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    folder = f"/proc/{sidecar.proxy}/fd"
    opened = [os.readlink(f"{folder}/{each}") for each in os.listdir(folder)]
    return int(found[1]), sum(not each.startswith("pipe:") for each in opened)


@pytest.mark.parametrize("datapath", DATAPATHS)
@pytest.mark.nightly  # saturating uploads and a witness of each packet: on a shared machine it wavers
def test_changes_under_load(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    changes, options = DATAPATHS[datapath]
    with ExitStack() as stack:
        for port in (STEADY, WEB, MOVING, PING):
            stack.enter_context(serving(topology.server, count, port))
        received = {port: stack.enter_context(numbers_received(topology, port)) for port in (STREAM, LATE)}
        witness = stack.enter_context(witnessing(topology.pod, "eth0"))
        sidecar = start_sidecar(topology.pod, policy(0), tmp_path, "--log-level", "info", *options, watch=True)
        greedy = [
            Flow(topology, "stream.py", port, host, 0)
            for port, host in ((STEADY, ""), (WEB, "web.example.com"), (MOVING, "moving.example.com"))
        ]
        ping = Flow(topology, "stream.py", PING, "ping.example.com", 0.02)
        datagrams = {port: Flow(topology, "datagrams.py", port, 0.005) for port in (STREAM, LATE)}
        until("all flows", lambda: {(TCP, p) for p in (STEADY, WEB, MOVING, PING)} <= witness.packets.keys())
        until("connections", lambda: sidecar.connections("m0") and sidecar.connections("left"))

        begun = time.monotonic()
        changed_at = []
        early = (0, 0)
        for number in range(1, changes + 1):
            said = sidecar.change(policy(number))
            assert "not used" not in said
            assert "warning" not in said
            changed_at.append(time.time_ns())
            if number == WARM:
                early = resources_of(sidecar)
        lasted = time.monotonic() - begun
        late = resources_of(sidecar)
        classes = sidecar.classes()
        seen = {flow: list(packets) for flow, packets in witness.packets.items()}
        missed = witness.missed()

        sidecar.change(wide(changes))
        assert [flow.end() for flow in greedy] == [0, 0, 0], "every byte has arrived, on the connection it began on"
        assert ping.end() == 0
        sent = {port: flow.end() for port, flow in datagrams.items()}
        for port, number in sent.items():
            until("the last datagram", lambda p=port, n=number: n - 1 in received[p])
        print(f"{changes} changes in {lasted:.1f} s; memory {early[0]} -> {late[0]} KiB")

        assert missed == 0
        for port, number in sent.items():
            assert number > 300
            assert received[port] == list(range(number)), "nothing dropped, nothing out of order"
        assert_held_to_its_lane(seen, changed_at)
        assert classes["stream"]["drops"] == 0
        if datapath != "step-aside":  # which does not see how connections end
            assert classes[f"m{changes}"]["connections"]["active"] == 1
            assert classes["left"]["connections"]["active"] == 1
        assert set(classes) == {line.split()[2].rstrip(",") for line in policy(changes).splitlines()[3:]} | {"default"}
        assert late[1] == early[1], "descriptors"
        assert late[0] - early[0] < GROWTH_KIB
        assert lasted < 60
        assert sidecar.stop() == 0


def assert_held_to_its_lane(seen: dict[tuple[int, int], list[tuple[int, int]]], changed_at: list[int]) -> None:
    """No flow sent more in any window than its ceil and its burst allow.

    A flow that gets another class has another burst, and what waited in the old class still leaves by it.
    """
    waited = fifo_limit(Rate.parse("5Mbit")).count
    moving = 5e6 * WINDOW / 8 + (most_changes(changed_at) + 1) * (SMALL_BURST + 1514 + waited)
    limits = {STEADY: 8e6 * WINDOW / 8 + burst(8e6), WEB: 12e6 * WINDOW / 8 + burst(12e6), MOVING: moving}
    for port, limit in limits.items():
        packets = seen[TCP, port]
        most = most_within(packets, WINDOW)
        mean = sum(size for _, size in packets) * 8 / (packets[-1][0] - packets[0][0]) * 1e3
        print(f"port {port}: at most {most} bytes in {WINDOW} s, {limit:.0f} allowed; {mean:.2f} Mbit/s in the mean")
        assert most < limit * TOLERANCE, port


def burst(ceil: float) -> float:
    """As :func:`tc_core.compile.mark_tree.burst`: what may leave at once after a pause."""
    return max(FRESH_BURST, min(1 << 16, ceil / 8 * 0.02))


def most_changes(at: list[int]) -> int:
    """The most changes in any window."""
    return most_within([(each, 1) for each in at], WINDOW)
