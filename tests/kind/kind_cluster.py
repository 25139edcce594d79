"""A kind cluster, and what the tests run in it: a server that measures nothing, a client that sends at its lanes' rates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
from kubectl import Kubectl, RefusedError
from manifests import pod
from waiting import until

ROOT: Final = Path(__file__).parents[2]
SYSTEM: Final = "podlane-system"
"""The namespace that docs/install.md installs the chart into."""
OPEN: Final = "open"
"""A namespace that has not opted in."""
IMAGE: Final = "podlane"
TAG: Final = "kind"
APPLICATION: Final = "podlane-application:kind"
PATIENCE: Final = "180s"
"""For Pods to be ready, on a machine that others use too."""
PORTS: Final = {"http": 80, "tls": 443, "bulk": 9000}
_NGINX: Final = f"""
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path /tmp/bodies;
  server {{
    listen {PORTS["http"]};
    listen {PORTS["bulk"]};
    listen {PORTS["tls"]} ssl;
    ssl_certificate /tmp/certificate.pem;
    ssl_certificate_key /tmp/key.pem;
    # The body is read to its end before the answer: it goes to a file of the Pod's memory.
    location / {{ client_body_in_file_only clean; proxy_pass http://127.0.0.1:8081; }}
  }}
  server {{ listen 127.0.0.1:8081; location / {{ return 200 "got it\\n"; }} }}
}}
"""
_SERVE: Final = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout /tmp/key.pem -out /tmp/certificate.pem 2>/dev/null
exec nginx -c /etc/server/nginx.conf -g 'daemon off;'
"""
CEIL: Final = 8
"""Mbit/s of each lane."""
LANES: Final = {
    "video": {"host": ["video.example.com"]},
    "secret": {"sni": ["secret.example.com"]},
    "bulk": {"port": [PORTS["bulk"]]},
}


def classes(ceil: int = CEIL) -> str:
    """The annotation: three lanes of one ceil, in Mbit/s."""
    return json.dumps([{"name": n, "rate": "1Mbit", "ceil": f"{ceil}Mbit", "match": m} for n, m in LANES.items()])


ANNOTATIONS: Final = {"podlane.io/egress-bandwidth": "100M", "podlane.io/classes": classes()}


@dataclass(frozen=True)
class KindCluster:
    """The cluster that KUBECONFIG names."""

    kubectl: Kubectl
    helm_program: str

    @classmethod
    def find(cls) -> Self:
        """The cluster of `make kind-up`; the test is skipped where there is none."""
        kubeconfig = os.environ.get("KUBECONFIG", "")
        kubectl, helm = shutil.which("kubectl"), shutil.which("helm")
        if not (kubeconfig and Path(kubeconfig).exists() and kubectl and helm):
            pytest.skip("no kind cluster: make kind-up, then make test-kind")
        return cls(Kubectl(kubectl, Path(kubeconfig)), helm)

    def helm(self, *arguments: str) -> str:
        """Run helm as the administrator, to its success."""
        done = subprocess.run(
            [self.helm_program, f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={SYSTEM}", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        self.make_namespace(SYSTEM)
        self.helm(
            "install", "podlane", "charts/podlane", "--wait", f"--timeout={PATIENCE}",
            f"--set=image.repository={IMAGE},image.tag={TAG}",
        )  # fmt: skip
        # Ready Pods are endpoints a moment later, when kube-proxy has heard of them: until then the API server is refused.
        until("the API server to reach the injectors", self._injects, patience=60)

    def _injects(self) -> bool:
        try:
            made = self.kubectl.create(pod(labels={"podlane.io/inject": "true"}), "--dry-run=server")
        except RefusedError as refused:
            if "failed calling webhook" in str(refused):
                return False
            raise
        return "podlane.io/status" in made["metadata"]["annotations"]

    def make_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self.kubectl.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}
        )
        self.kubectl.within(name)("wait", "--for=create", "serviceaccount/default", "--timeout=60s")

    def clear(self) -> None:
        """Uninstall the chart, and delete the namespaces of the tests with all that is in them."""
        self.helm("uninstall", "podlane", "--ignore-not-found", "--wait", f"--timeout={PATIENCE}")
        self.kubectl(
            "delete", "namespace", SYSTEM, OPEN, "shop", "--ignore-not-found", f"--timeout={PATIENCE}", timeout=200
        )

    def in_node(self, *command: str) -> str:
        """Run a command on the node as root; gives what it wrote, also of what failed."""
        (node,) = self.kubectl.list("nodes")
        done = subprocess.run(
            ["docker", "exec", node["metadata"]["name"], *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr


@dataclass(frozen=True)
class Server:
    """A Pod whose nginx reads request bodies to their end before it answers."""

    address: str

    @classmethod
    def start(cls, cluster: KindCluster) -> Self:
        cluster.make_namespace(OPEN)
        kubectl = cluster.kubectl.within(OPEN)
        kubectl.create({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "server"}, "data": {"nginx.conf": _NGINX},
        })  # fmt: skip
        container = {
            "name": "nginx", "image": APPLICATION, "command": ["sh", "-c", _SERVE],
            "readinessProbe": {"tcpSocket": {"port": PORTS["tls"]}, "periodSeconds": 1},
            "volumeMounts": [{"name": "configuration", "mountPath": "/etc/server"}, {"name": "memory", "mountPath": "/tmp"}],
        }  # fmt: skip
        volumes = [
            {"name": "configuration", "configMap": {"name": "server"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ]
        kubectl.create({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"},
            "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1},
        })  # fmt: skip
        kubectl("wait", "--for=condition=Ready", "pod/server", f"--timeout={PATIENCE}", timeout=200)
        return cls(kubectl.get("pod", "server")["status"]["podIP"])


@dataclass(frozen=True)
class Client:
    """A Pod of a Deployment whose application sends with curl."""

    kubectl: Kubectl
    pod: str

    @classmethod
    def start(cls, kubectl: Kubectl) -> Self:
        """Create the Deployment ``client``, and wait until its Pod is ready."""
        kubectl.create(deployment("client"))
        kubectl("rollout", "status", "deployment/client", f"--timeout={PATIENCE}", timeout=200)
        (pod,) = kubectl.list("pods")
        return cls(kubectl, pod["metadata"]["name"])

    @property
    def document(self) -> dict[str, Any]:
        return self.kubectl.get("pod", self.pod)

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command in the application's container."""
        return self.kubectl("exec", self.pod, "--container=app", "--", *command, timeout=timeout)

    def upload(self, server: Server, size: int, host: str, port: str) -> float:
        """Send so many bytes as the body of a request; gives the rate in Mbit/s, until the server had them all."""
        scheme, number = ("https" if port == "tls" else "http"), PORTS[port]
        said = self.run("sh", "-c", (
            f"head -c {size} /dev/zero | curl --silent --show-error --insecure --http1.1 --header 'Expect:' --data-binary @- "
            f"--output /dev/null --write-out '%{{http_code}} %{{size_upload}} %{{time_total}}' --max-time 50 "
            f"--resolve {host}:{number}:{server.address} {scheme}://{host}:{number}/"
        ))  # fmt: skip
        code, sent, seconds = said.split()
        assert (code, int(sent)) == ("200", size), said
        return size * 8 / float(seconds) / 1e6

    def lanes(self) -> dict[str, dict[str, Any]]:
        """The classes in force, by name, as the sidecar's own server tells them."""
        told = json.loads(self.run("curl", "--silent", "--show-error", "http://127.0.0.1:15109/classes"))
        return {c["name"]: c for c in told["classes"]}


def deployment(name: str, annotations: Mapping[str, str] = ANNOTATIONS) -> dict[str, Any]:
    """One Pod with an application that waits to be used; it cannot do more than an ordinary one."""
    application = {
        "name": "app", "image": APPLICATION,
        "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": dict(annotations)},
                "spec": {"containers": [application], "terminationGracePeriodSeconds": 6},
            },
        },
    }  # fmt: skip
