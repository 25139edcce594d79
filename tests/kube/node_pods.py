"""Pods that the node's agent finds: a network namespace with an interface, and processes in it whose cgroup has the UID.

Nothing schedules Pods here, so a test makes what a kubelet and a container runtime would have made.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kubectl import Kubectl
from manifests import pod
from waiting import until

from podlane.netns.lab import Host, Lab

_ROOTS: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids"))


def cgroup_root() -> Path | None:
    """Where a cgroup can be made; None: nowhere."""
    for root in _ROOTS:
        probe = root / f"podlane-probe-{uuid.uuid4().hex[:8]}"
        with suppress(OSError):
            probe.mkdir()
            made = (probe / "cgroup.procs").exists()
            probe.rmdir()
            if made:
                return root
    return None


@contextmanager
def nodes(kubectl: Kubectl, versions: Mapping[str, str], os: str = "linux") -> Iterator[None]:
    """Nodes of these names and kubelets, as their kubelets register them; nobody runs there. Gone in the end."""
    try:
        for name, version in versions.items():
            kubectl.create(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name, "labels": {"kubernetes.io/os": os}},
                    "status": {"nodeInfo": {"kubeletVersion": version, "operatingSystem": os}},
                }
            )
        yield
    finally:
        kubectl("delete", "node", *versions, "--ignore-not-found")


@dataclass(eq=False)
class NodePod:
    """A Pod of the API server that has processes here."""

    kubectl: Kubectl
    name: str
    uid: str
    host: Host
    cgroup: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def workload(self) -> str:
        return f"{self.kubectl.namespace}/{self.name}"

    def start(self) -> subprocess.Popen[bytes]:
        """A process of a container; other than those of Lab it is in the Pod's cgroup."""
        container = self.cgroup / f"cri-containerd-{uuid.uuid4().hex}.scope"
        container.mkdir(parents=True)
        started = self.host.popen(["sleep", "infinity"])
        inside = self.host.namespace.path.stat().st_ino
        until("a process in its Pod's network", lambda: Path(f"/proc/{started.pid}/ns/net").stat().st_ino == inside)
        (container / "cgroup.procs").write_text(str(started.pid))
        self.processes.append(started)
        return started

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self.processes.remove(process)

    def annotate(self, **annotations: str) -> None:
        """Set annotations, by their names without podlane.io/; dashes are written as _."""
        words = [f"podlane.io/{name.replace('_', '-')}={text}" for name, text in annotations.items()]
        self.kubectl("annotate", "--overwrite", "pod", self.name, *words)

    def label(self, mode: str) -> None:
        self.kubectl("label", "--overwrite", "pod", self.name, f"podlane.io/mode={mode}")

    def delete(self) -> None:
        """From the API server, at once."""
        self.kubectl("delete", "pod", self.name, "--force", "--grace-period=0", "--wait=true")

    def events(self) -> list[dict[str, Any]]:
        """Those about this Pod."""
        return [each for each in self.kubectl.list("events") if each["involvedObject"].get("uid") == self.uid]

    def until_event(self, reason: str, words: str) -> dict[str, Any]:
        """Wait for an Event."""
        return until(
            f"the Event {reason}: {words}",
            lambda: next((e for e in self.events() if e["reason"] == reason and words in e["message"]), None),
        )

    def end(self) -> None:
        for process in list(self.processes):
            self.kill(process)
        for folder in sorted(self.cgroup.glob("*.scope")):
            until(f"the end of {folder}", lambda f=folder: _removed(f))
        until(f"the end of {self.cgroup}", lambda: _removed(self.cgroup))


def _removed(folder: Path) -> bool:
    """A cgroup is busy until the kernel has let go of its processes."""
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()


class Node:
    """A node, with a router behind its Pods."""

    def __init__(self, lab: Lab, root: Path) -> None:
        self.lab = lab
        self.name = f"node-{uuid.uuid4().hex[:8]}"
        self.router = lab.host("node", forward=True)
        self.slice = root / f"podlane-test-{os.getpid()}"
        self.slice.mkdir(exist_ok=True)
        self.pods: list[NodePod] = []

    def network(self, name: str) -> Host:
        """A Pod's network namespace, with eth0."""
        host = self.lab.host(name)
        self.lab.link(host, "eth0", self.router, name, gateway=True)
        return host

    def pod(
        self,
        kubectl: Kubectl,
        name: str,
        annotations: Mapping[str, str],
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> NodePod:
        """A Pod of this node with one process."""
        document = pod(annotations, labels, nodeName=self.name, **spec)
        document["metadata"]["name"] = name
        made = kubectl.create(document)
        uid = made["metadata"]["uid"]
        place = self.slice / f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        place.mkdir()
        found = NodePod(kubectl, name, uid, self.network(f"{name}-{len(self.pods)}"), place)
        self.pods.append(found)
        found.start()
        return found

    def end(self) -> None:
        for each in self.pods:
            each.end()
        self.slice.rmdir()


@contextmanager
def node_of(lab: Lab, root: Path) -> Iterator[Node]:
    made = Node(lab, root)
    try:
        yield made
    finally:
        made.end()
