"""Where the tests run Pods: a Pod's network with a node and a web server behind it, and what is seen and measured there."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster import Cluster
from kubectl import Kubectl
from lab import connect, describe, listen
from manifests import IMAGE, INJECTED, pod
from running_pod import RunningPod
from runtime import Runtime
from sidecars import ADMIN, state_of
from tclab import Stream
from trafficlab import ETHERNET, IPV4, TCP_WITH_TIMESTAMPS
from webserver import WebServer, start_nginx

from podlane.netns import Lab, PodNodeServer, pod_node_server

NAMES: Final = ("api.example.com", "web.example.com", "push.example.com", "other.example.com")
"""What applications call the server, by the Pod's hostAliases."""
_MSS: Final = 1448
"""Bytes of payload in a full packet of Ethernet: 1,500 without the headers of IPv4 and of TCP with timestamps."""
PAYLOAD_SHARE: Final = _MSS / (_MSS + ETHERNET + IPV4 + TCP_WITH_TIMESTAMPS)
"""What of a rate that HTB holds is payload."""
_UNPRIVILEGED: Final = {
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def application(script: str, **more: Any) -> dict[str, Any]:
    """An application's container: usual programs, called by bash, with no rights and a folder ``/data`` to write to."""
    return {
        "name": "app",
        "image": IMAGE,
        "command": ["bash", "-uc", script],
        "securityContext": _UNPRIVILEGED,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        **more,
    }


def idle() -> dict[str, Any]:
    """An application that does nothing until it is told to end: other than sleep(1) alone, which PID 1 could not be."""
    return application("trap 'exit 0' TERM; echo idle; sleep infinity & wait")


@dataclass(frozen=True, slots=True)
class Upload:
    """A request as the server's log has it: what arrived, and how fast."""

    host: str
    port: int
    size: int
    seconds: float
    status: int

    @property
    def goodput(self) -> float:
        """Mbit/s."""
        return self.size * 8 / self.seconds / 1e6


@dataclass(eq=False)
class World:
    """One test's place. The Pods are of the cluster, in a namespace that opted in."""

    kubectl: Kubectl
    topology: PodNodeServer
    runtime: Runtime
    web: WebServer
    before: str
    """What a sidecar could change, before any."""
    _pods: list[RunningPod] = field(default_factory=list)

    @classmethod
    @contextmanager
    def made(cls, cluster: Cluster, folder: Path) -> Iterator[World]:
        """It is there for the block; everything in it ends with the block."""
        with Lab("kube") as lab:
            # Reno: the rates that are measured are about HTB, not about BBR.
            topology = pod_node_server(lab, sysctls={"net.ipv4.tcp_congestion_control": "reno"})
            web = start_nginx(topology.server, folder / "nginx")
            (folder / "node").mkdir()
            with Runtime.start(folder / "node") as runtime:
                yield cls(cluster.namespace(INJECTED), topology, runtime, web, state_of(topology.pod))

    # --- Pods ----------------------------------------------------------------------------------------------------

    def document(self, annotations: Mapping[str, str], *containers: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
        """A Pod as a developer writes it; it ends when its containers do, and knows the server by :data:`NAMES`."""
        return pod(
            annotations,
            containers=list(containers),
            hostAliases=[{"ip": self.topology.server_ipv4, "hostnames": list(NAMES)}],
            volumes=[{"name": "data", "emptyDir": {}}],
            **{"restartPolicy": "Never", **spec},
        )

    def run(self, stored: dict[str, Any]) -> RunningPod:
        """Run a Pod as the API server stored it; all its containers are up afterwards."""
        running = RunningPod(stored, self.kubectl, self.runtime, self.topology.pod)
        self._pods.append(running)
        running.start()
        return running

    def run_new(self, annotations: Mapping[str, str], *containers: Mapping[str, Any], **spec: Any) -> RunningPod:
        """Create a Pod and run what became of it."""
        return self.run(self.kubectl.create(self.document(annotations, *containers, **spec)))

    # --- what is seen --------------------------------------------------------------------------------------------

    def classes(self) -> dict[str, dict[str, Any]]:
        """The sidecar's /classes, by name."""
        answer = self.topology.pod.run(["curl", "-sS", "--max-time", "10", f"{ADMIN}/classes"]).stdout
        return {shown["name"]: shown for shown in json.loads(answer)["classes"]}

    def ceils(self) -> dict[str, int]:
        """What may be sent at most in each class, in Mbit/s."""
        return {name: shown["ceil_bits_per_second"] // 10**6 for name, shown in self.classes().items()}

    def connections(self, name: str) -> dict[str, int]:
        """Connections that a class has had, by protocol."""
        return dict(self.classes()[name]["connections"]["by_protocol"])

    def sent(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes that the kernel has sent in each class of the policy, and in the default class."""
        text = self.topology.pod.run(["tc", "-s", "class", "show", "dev", "eth0"]).stdout
        counted = {
            int(minor, 16): int(size) for minor, size in re.findall(r"class htb 1:1(\w\w) .*\n Sent (\d+)", text)
        }
        return {**{name: counted[number] for number, name in enumerate(names, 1)}, "default": counted[255]}

    def uploads(self, host: str) -> list[Upload]:
        """The requests to a name that the server has answered."""
        found = []
        for line in self.web.log.read_text().splitlines():
            name, port, size, seconds, status = line.split()
            found.append(Upload(name, int(port), int(size), float(seconds), int(status)))
        return [upload for upload in found if upload.host == host]

    @contextmanager
    def stream(self, host: str) -> Iterator[Stream]:
        """An upload by HTTP from the Pod's network that goes on until the block ends, as fast as it may."""
        listener = listen(self.topology.server)
        head = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000000\r\n\r\n".encode()
        with listener:
            listener.settimeout(30)
            sender = connect(self.topology.pod, self.topology.server_ipv4, listener.getsockname()[1], timeout=30)
            sender.sendall(head)
            receiver, _ = listener.accept()
        receiver.settimeout(None)
        sender.settimeout(None)
        stream = Stream(sender, receiver)
        stream.mss = receiver.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)  # the sender's is that of loopback
        try:
            yield stream
        finally:
            stream.close()

    def left(self) -> str:
        """What a sidecar could change, now."""
        return state_of(self.topology.pod)

    def describe(self) -> Iterator[tuple[str, str]]:
        """For the report of a failure: containers, rules, qdiscs, classes, sockets, the server's log."""
        for running in self._pods:
            yield from running.describe()
        for host in self.topology.lab.hosts:
            yield f"state of {host.short_name}", describe(host)
        yield "log of nginx", self.web.log.read_text()


def held(uploads: Mapping[str, Upload], ceils: Mapping[str, float]) -> bool:
    """Whether each upload had 95 % of what its ceil (Mbit/s) leaves for payload; fails if any had more than 105 %."""
    shares = {host: uploads[host].goodput / (ceil * PAYLOAD_SHARE) for host, ceil in ceils.items()}
    print({host: f"{share:.3f}" for host, share in shares.items()})
    assert max(shares.values()) <= 1.05, shares
    return min(shares.values()) >= 0.95
