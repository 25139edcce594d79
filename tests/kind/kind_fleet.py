"""A control plane in a kind cluster, as docs/how-to/control-plane-kubernetes.md makes one, and `podlane` as its administrator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trustme
from kind_agents import AGENTS
from kind_cluster import SYSTEM, KindCluster, rolled_out

from podlane.kubectl.cluster import Cluster

CONTROL_PLANE: Final = "statefulset/podlane-control-plane"
REST: Final = "podlane-rest"
"""The Secret with the certificate of REST."""
FLEET_CA: Final = "podlane-fleet-ca"
"""The ConfigMap with the CA of the agents' port."""
VOLUME: Final = "podlane-control-plane"
FOLDER: Final = "/var/lib/podlane-test-control-plane"
"""Of the node, where the volume is: what the node image has for a provisioner makes folders for root alone."""
AGENTS_FOLDER: Final = "/var/lib/podlane/agent"
"""Of the node, where an agent keeps its certificate, and what it was told."""
_WITH_CONTROL_PLANE: Final = (
    "controlPlane.enabled=true",
    "controlPlane.image.repository=podlane-control-plane",
    "controlPlane.image.tag=kind",
    f"controlPlane.tls.secretName={REST}",
    "controlPlane.reviewers.thisCluster=default/east",
    f"controlPlane.storage.className={VOLUME}",
)
CONNECTED: Final = (
    *_WITH_CONTROL_PLANE,
    "agent.enabled=true",
    f"agent.controlPlane.address=podlane-control-plane-agents.{SYSTEM}.svc:15181",
    "agent.controlPlane.cluster=default/east",
    f"agent.controlPlane.ca.configMap={FLEET_CA}",
)
"""Values of the chart: a control plane, and agents that are connected to it."""


@dataclass(frozen=True)
class Fleet:
    """A control plane that runs in the cluster, and a folder of an administrator who is logged in to it."""

    cluster: KindCluster
    folder: Path

    @classmethod
    @contextmanager
    def started(cls, cluster: KindCluster, folder: Path) -> Iterator[Fleet]:
        """Start one, log in, and connect the cluster's agents. In the end what the chart does not know of is removed."""
        made = cls(cluster, folder)
        system = cluster.kubectl.within(SYSTEM)
        # Of a run that was killed; an agent would go on with what another control plane has told it.
        made._remove_volume()
        cluster.in_node("rm", "-rf", AGENTS_FOLDER)
        made._make_volume()
        try:
            made._make_certificate()
            cluster.upgrade(*_WITH_CONTROL_PLANE)
            rolled_out(system, CONTROL_PLANE)
            made._log_in()
            made._trust_this_cluster()
            cluster.allow_agents()
            cluster.upgrade(*CONNECTED)
            rolled_out(system, AGENTS)
            yield made
        finally:
            cluster.upgrade_or_install()
            system("delete", f"secret/{REST}", f"configmap/{FLEET_CA}", "--ignore-not-found")
            made._remove_volume()

    def podlane(self, *arguments: str, stdin: str = "") -> str:
        """What a verb prints; REST is reached through a forwarded port, as the name that is in its certificate."""
        kubectl = self.cluster.kubectl
        forwarding = Cluster((f"--kubeconfig={kubectl.kubeconfig}",), kubectl.program)
        with forwarding.forwarded(SYSTEM, "podlane-control-plane-0", 15180) as port:
            contexts = self.folder / "contexts.yaml"
            if contexts.exists():  # the port is another one each time
                kept = contexts.read_text()
                contexts.write_text("".join(_at(line, port) for line in kept.splitlines(keepends=True)))
            done = subprocess.run(
                [Path(sys.executable).parent / "podlane", *(each.replace("{PORT}", str(port)) for each in arguments)],
                env=os.environ | {"PODLANE_CONFIG": str(self.folder)}, input=stdin,
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        print(done.stderr, end="")
        return done.stdout

    def agents(self) -> list[dict[str, Any]]:
        """Those that the control plane knows."""
        found: list[dict[str, Any]] = json.loads(self.podlane("agents", "list", "--output=json"))
        return found

    def apply(self, name: str, document: dict[str, Any], selector: str) -> str:
        """Publish a policy, and give what is said."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(document))
        return self.podlane("policy", "apply", name, f"--file={file}", f"--selector={selector}", "--reason=a test")

    def restart(self) -> None:
        """Have another process take the place of the control plane."""
        system = self.cluster.kubectl.within(SYSTEM)
        system("rollout", "restart", CONTROL_PLANE)
        rolled_out(system, CONTROL_PLANE)

    def _remove_volume(self) -> None:
        system = self.cluster.kubectl.within(SYSTEM)
        system("delete", "persistentvolumeclaim", "--all", "--wait", timeout=90)
        system("delete", "persistentvolume", VOLUME, "--ignore-not-found", "--wait", timeout=90)
        self.cluster.in_node("rm", "-rf", FOLDER)

    def _make_volume(self) -> None:
        (node,) = (each["metadata"]["name"] for each in self.cluster.kubectl.list("nodes"))
        self.cluster.in_node("mkdir", "-m", "0777", FOLDER)  # as the provisioner of kind makes them
        expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        self.cluster.kubectl.create({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": VOLUME},
            "spec": {
                "storageClassName": VOLUME, "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": FOLDER},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
            },
        })  # fmt: skip

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "ca.crt")
        issued = authority.issue_cert("localhost", f"podlane-control-plane.{SYSTEM}.svc")
        (self.folder / "tls.crt").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.folder / "tls.key")
        files = (f"--cert={self.folder}/tls.crt", f"--key={self.folder}/tls.key")
        self.cluster.kubectl.within(SYSTEM)("create", "secret", "tls", REST, *files)

    def _log_in(self) -> None:
        system = self.cluster.kubectl.within(SYSTEM)
        token = system("exec", CONTROL_PLANE, "--", "podlane", "control-plane", "--new-token")
        self.podlane("login", "https://localhost:{PORT}", f"--ca={self.folder}/ca.crt", stdin=token)

    def _trust_this_cluster(self) -> None:
        system = self.cluster.kubectl.within(SYSTEM)
        self.podlane("clusters", "add", "east")
        authority = self.folder / "kubernetes-ca.crt"
        authority.write_text(system("get", "configmap", "kube-root-ca.crt", "--output=jsonpath={.data.ca\\.crt}"))
        self.podlane(
            "clusters", "trust", "east", "--url=https://kubernetes.default.svc", f"--ca={authority}",
            f"--service-account={SYSTEM}/podlane-agent",
        )  # fmt: skip
        agents = self.folder / "fleet-ca.crt"
        agents.write_text(self.podlane("clusters", "ca"))
        system("create", "configmap", FLEET_CA, f"--from-file=ca.crt={agents}")


def _at(line: str, port: int) -> str:
    before, found, _ = line.partition("https://localhost:")
    return f"{before}{found}{port}\n" if found else line
