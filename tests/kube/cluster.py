"""A Kubernetes control plane on this machine's loopback: etcd, kube-apiserver and kube-controller-manager, all real.

Admission plugins, authorization and certificates are as a real cluster has them. There are no nodes: nothing schedules or
runs a Pod, so Pods stay Pending as the API server stored them. The controllers that make Pods out of Deployments and Jobs,
and ServiceAccounts in new namespaces, do run.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from daemons import ARGUMENTS_BEFORE, Daemon, end_all, free_ports, launch, start_notifying
from kubectl import Kubectl, RefusedError
from pki import ClusterPki, KeyPair
from waiting import until

from podlane.netns.tools import find_tool

TOOLS: Final = Path(__file__).parents[2] / "tools" / "kube-tools"
MISSING: Final = 77
"""The tool's exit code when something is missing."""
_START_PATIENCE: Final = 90.0
"""Seconds for one server to get ready; two are usual, but other programs may have the machine."""
CONTROLLERS: Final = (
    "serviceaccount", "serviceaccount-token", "root-ca-certificate-publisher", "namespace", "deployment", "replicaset",
    "statefulset", "daemonset", "job", "cronjob", "garbage-collector", "resourcequota",
)  # fmt: skip
"""Those that have work without nodes."""


class ToolsMissingError(Exception):
    """What a cluster needs is not here; the text says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that make up a cluster."""

    etcd: str
    apiserver: str
    controller_manager: str
    kubectl: str
    helm: str

    @classmethod
    def find(cls) -> Self:
        """Look for them; raises :class:`ToolsMissingError`."""
        etcd = find_tool("etcd")
        if etcd is None:
            raise ToolsMissingError("etcd is not installed. Install it: apt-get install etcd-server")
        names = ("kube-apiserver", "kube-controller-manager", "kubectl", "helm")
        found = subprocess.run([TOOLS, "--find", *names], capture_output=True, text=True, check=False)
        if found.returncode == MISSING:
            raise ToolsMissingError(found.stderr.strip())
        assert found.returncode == 0, found.stderr
        return cls(etcd, *found.stdout.splitlines())


def _services() -> str:
    """A network of 127.0.0.0/8 that no cluster of another process of this run has."""
    return f"127.{96 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 32}.0.0/16"


@dataclass(eq=False)
class Cluster:
    """A control plane that is ready."""

    tools: Tools
    folder: Path
    pki: ClusterPki
    url: str
    daemons: list[Daemon] = field(default_factory=list)
    _namespaces: int = 0

    @classmethod
    def start(cls, folder: Path, tools: Tools, *options: str) -> Self:
        """Start it and wait until everything serves; on failure nothing stays behind. ``options`` are further ones of
        the API server."""
        etcd_port, etcd_peers, port, controllers_port = free_ports(4)
        cluster = cls(tools, folder, ClusterPki.make(folder / "pki"), f"https://127.0.0.1:{port}")
        try:
            cluster._start_etcd(etcd_port, etcd_peers)
            cluster._start_apiserver(port, etcd_port, options)
            cluster._start_controllers(controllers_port)
        except BaseException:  # also if it is interrupted: its programs would stay behind
            cluster.end()
            raise
        return cluster

    def _start_etcd(self, port: int, peers: int) -> None:
        url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
        argv = [
            self.tools.etcd, f"--data-dir={self.folder / 'etcd'}", "--name=test", "--logger=zap", "--log-level=warn",
            f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}", f"--initial-cluster=test={peer_url}",
        ]  # fmt: skip
        self.daemons.append(start_notifying("etcd", argv, self.folder, patience=_START_PATIENCE))

    def _start_apiserver(self, port: int, etcd_port: int, options: Sequence[str]) -> None:
        pki = self.pki
        argv = [
            self.tools.apiserver, f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            # An address that nothing has: the Endpoints of the Service `kubernetes` may not be loopback, and nobody uses them.
            "--bind-address=127.0.0.1", f"--secure-port={port}", "--advertise-address=192.0.2.1",
            f"--tls-cert-file={pki.server.certificate}", f"--tls-private-key-file={pki.server.key}", f"--client-ca-file={pki.bundle}",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki.tokens.certificate}",
            # Services get addresses of the loopback interface: a test's server can have one without any set-up.
            f"--service-account-signing-key-file={pki.tokens.key}", f"--service-cluster-ip-range={_services()}",
            "--authorization-mode=Node,RBAC", "--allow-privileged=true", *options,
        ]  # fmt: skip
        self.daemons.append(start_notifying("kube-apiserver", argv, self.folder, patience=_START_PATIENCE))
        self.write_kubeconfig("admin", self.pki.client("admin", "system:masters"))
        # It serves before the built-in roles are written; /readyz knows when that is done.
        until("the API server to be ready", self._serves, patience=_START_PATIENCE)

    def stop_apiserver(self) -> None:
        """End the API server, as for an upgrade of its node."""
        self._apiserver().end()

    def restart_apiserver(self) -> None:
        """Start it again, as it was."""
        old = self._apiserver()
        argv = list(old.process.args)[ARGUMENTS_BEFORE:]  # type: ignore[arg-type]
        fresh = start_notifying("kube-apiserver", argv, self.folder, patience=_START_PATIENCE)
        self.daemons[self.daemons.index(old)] = fresh
        until("the API server to be ready", self._serves, patience=_START_PATIENCE)

    def _apiserver(self) -> Daemon:
        return next(each for each in self.daemons if each.name == "kube-apiserver")

    def _serves(self) -> bool:
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except RefusedError:
            return False

    def _start_controllers(self, port: int) -> None:
        kubeconfig = self.write_kubeconfig(
            "controllers", self.pki.client("system:kube-controller-manager", "system:masters")
        )
        argv = [
            self.tools.controller_manager, f"--kubeconfig={kubeconfig}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            "--leader-elect=false", "--use-service-account-credentials=true", f"--controllers={','.join(f'{name}-controller' for name in CONTROLLERS)}",
            f"--service-account-private-key-file={self.pki.tokens.key}", f"--root-ca-file={self.pki.bundle}",
        ]  # fmt: skip
        controllers = launch("kube-controller-manager", argv, self.folder)
        self.daemons.append(controllers)

        def works() -> bool:
            assert controllers.running(), controllers.output[-4000:]
            return bool(self.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name"))

        # It has no word for being ready: its work is what shows it.
        until("the first ServiceAccount", works, patience=_START_PATIENCE)

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the cluster's administrator."""
        return Kubectl(self.tools.kubectl, self.folder / "admin.kubeconfig")

    def namespace(self, labels: Mapping[str, str] | None = None) -> Kubectl:
        """Make a namespace of its own for a test; gives kubectl within it, its ServiceAccount being there."""
        self._namespaces += 1
        name = f"test-{self._namespaces}"
        self.kubectl.create(namespace_document(name, labels))
        within = self.kubectl.within(name)
        within("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
        return within

    def write_kubeconfig(self, name: str, client: KeyPair) -> Path:
        """A kubeconfig file for a client certificate."""
        user = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
        return self._write_kubeconfig(name, user)

    def service_account_kubeconfig(self, namespace: str, name: str, pod: str = "") -> Path:
        """A kubeconfig file with a token of a ServiceAccount, and so with no more rights than that has; ``pod``: the
        token is that of this Pod, as the kubelet mounts it there."""
        bound = [f"--bound-object-name={pod}", "--bound-object-kind=Pod"] if pod else []
        token = self.kubectl.within(namespace)("create", "token", name, "--duration=1h", *bound).strip()
        return self._write_kubeconfig(f"{namespace}-{name}-{pod}".rstrip("-"), {"token": token})

    def _write_kubeconfig(self, name: str, user: Mapping[str, str]) -> Path:
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.pki.bundle)}}
            ],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2))  # JSON is YAML
        return path

    def end(self) -> None:
        """End the servers, the last one first."""
        end_all(self.daemons)


def namespace_document(name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}
