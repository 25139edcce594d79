"""What the tests of QUIC share: a server that takes everything, clients that do what they are told, and counts."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meter import MEASURE, SETTLE
from sidecars import RunningSidecar, start_sidecar
from waiting import until

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

CLIENTS = Path(__file__).parent / "clients"
QUIC, RETRY = 443, 8443
INITIAL = b"\xc0\0\0\0\x01\x08" + bytes(1194)
"""What the kernel takes for the beginning of a connection: an Initial's header, in a datagram that is large enough."""


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of the server's, and its key; nobody checks it."""
    certificate, key = folder / "quic.pem", folder / "quic-key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=podlane test", "-addext", "subjectAltName=DNS:*.example.com"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def start_sink(host: Host, folder: Path) -> None:
    """A server on both ports, IPv4 and IPv6; listens when this returns."""
    certificate, key = make_certificate(folder)
    command = [sys.executable, f"{CLIENTS}/quic_sink.py", "::", str(certificate), str(key), str(QUIC), str(RETRY)]
    server = host.popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"


@dataclass
class Talker:
    """A client process: see clients/quic_talk.py. All its connections have the same addresses and ports."""

    host: Host
    address: str
    port: int = QUIC
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, f"{CLIENTS}/quic_talk.py", self.address, str(self.port)]
        self.process = self.host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *words: object) -> str:
        """Give a command; its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def do(self, *words: object) -> None:
        """The same, which must succeed."""
        answer = self.tell(*words)
        assert answer == "ok", (words, answer)


class QuicWorld:
    """A Pod with a sidecar, and a server outside."""

    def __init__(self, topology: PodNodeServer, folder: Path, datapath: str) -> None:
        self.pod, self.server = topology.pod, topology.server
        self.folder = folder
        self.datapath = datapath
        self.addresses = {"IPv4": topology.server_ipv4, "IPv6": topology.server_ipv6}
        ends = topology.pod_link.a
        self.own_addresses = {"IPv4": str(ends.ipv4), "IPv6": str(ends.ipv6)}
        start_sink(self.server, folder)

    def sidecar(self, policy: str, *options: str) -> RunningSidecar:
        return start_sidecar(self.pod, policy, self.folder, "--datapath", self.datapath, *options)

    def talker(self, port: int = QUIC, family: str = "IPv4") -> Talker:
        return Talker(self.pod, self.addresses[family], port)

    def read(self) -> bool:
        """Whether somebody has the queue."""
        return bool(self.pod.read("/proc/net/netfilter/nfnetlink_queue").strip())

    def shown(self) -> int:
        """How many packets the kernel has shown to user space (linux/Documentation: proc, nfnetlink_queue)."""
        rows = self.pod.read("/proc/net/netfilter/nfnetlink_queue").splitlines()
        return sum(int(row.split()[7]) for row in rows)


def sent(sidecar: RunningSidecar) -> dict[str, int]:
    """Bytes that each class has sent."""
    return {name: c["bytes"] for name, c in sidecar.classes().items()}


def packets(sidecar: RunningSidecar, name: str) -> int:
    """Packets that a class has sent."""
    return int(sidecar.classes()[name]["packets"])


def grew(sidecar: RunningSidecar, before: dict[str, int], name: str, size: int) -> dict[str, int]:
    """What each class has sent since, once the sample shows ``size`` bytes in one of them."""
    until(f"{size} bytes in {name}", lambda: sent(sidecar)[name] - before[name] > size)
    now = sent(sidecar)
    return {each: now[each] - before.get(each, 0) for each in now}


def rates_of(sidecar: RunningSidecar, names: Iterable[str]) -> dict[str, float]:
    """Mbit/s of classes that send all the time, by the kernel's counters and the clock that they were read at."""

    def reading() -> tuple[float, dict[str, int]]:
        document = json.loads(sidecar.get("/classes"))
        return document["read_at_seconds"], {c["name"]: c["bytes"] for c in document["classes"]}

    def later(than: float, seconds: float) -> tuple[float, dict[str, int]]:
        return until("some seconds of sending", lambda: found if (found := reading())[0] - than >= seconds else None)

    began, before = later(reading()[0], SETTLE)
    ended, now = later(began, MEASURE)
    return {name: (now[name] - before[name]) * 8 / (ended - began) / 1e6 for name in names}


@contextmanager
def datagrams(world: QuicWorld) -> Iterator[socket.socket]:
    """A UDP socket of the Pod's, connected to the server's QUIC port."""
    with world.pod.namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((world.addresses["IPv4"], QUIC))
    with sock:
        yield sock
