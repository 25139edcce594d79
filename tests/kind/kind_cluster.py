"""A kind cluster, and what the tests run in it: a server that measures nothing, a client that sends at its lanes' rates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

import pytest
from kubectl import Kubectl, RefusedError
from manifests import pod
from waiting import until

ROOT: Final = Path(__file__).parents[2]
SYSTEM: Final = "podlane-system"
"""The namespace that docs/how-to/install.md installs the chart into."""
INJECTORS: Final = "podlane-injector"
"""The chart's Deployment."""
OPEN: Final = "open"
"""A namespace that has not opted in."""
SHOP: Final = "shop"
"""One that has."""
LANES_NAMESPACE: Final = "lanes"
"""One whose Pods are the agent's."""
LATER_NAMESPACE: Final = "later"
"""One whose Pods become the agent's when they run."""
STRICT: Final = "strict"
"""One that has, and whose Pods may have no special rights."""
PRIVILEGED: Final = "privileged"
"""One that has, and says of its Pods that they may have all rights."""
NAMESPACES: Final = (SYSTEM, OPEN, SHOP, LANES_NAMESPACE, LATER_NAMESPACE, STRICT, PRIVILEGED)
CONTEXT: Final = f"kind-{os.environ.get('PODLANE_KIND_CLUSTER', 'podlane')}"
"""What kind calls the cluster of benchmarks/kind/cluster.yaml, or that of another name, in a kubeconfig."""
CHART_VALUES: Final = "image.repository=podlane,image.tag=kind"
APPLICATION: Final = "podlane-application:kind"
PATIENCE: Final = "180s"
"""For Pods to be ready, on a machine that others use too."""
_ENOUGH, _ASKED = "/tmp/enough", "/tmp/asked"
"""Files in a client's container: that its requests are to end, and how many there were."""
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
    listen [::]:{PORTS["http"]};
    listen {PORTS["bulk"]};
    listen [::]:{PORTS["bulk"]};
    listen {PORTS["tls"]} ssl;
    listen [::]:{PORTS["tls"]} ssl;
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
ATTEMPTS: Final = 3
SLOW_TO_CONNECT: Final = 0.5
"""Seconds after which it is worth a word in a report: a first packet was lost, or waited for long."""
SIZE: Final = 4_000_000
"""Bytes of an upload: 4 s in its lane, so that what HTB lets through at first does not count."""
PAYLOAD_SHARE: Final = 1448 / 1514
"""Of each 1,514 bytes that HTB counts (Ethernet 14, IPv4 20, TCP 20, timestamps 12) 1,448 are payload."""
EACH_SECOND: Final = {"periodSeconds": 1, "failureThreshold": 1}
"""Of a probe."""
LANES: Final = {
    "video": {"host": ["video.example.com"]},
    "secret": {"sni": ["secret.example.com"]},
    "bulk": {"port": [PORTS["bulk"]]},
}


def classes(ceil: int = CEIL, lanes: Iterable[str] = LANES) -> str:
    """The annotation: lanes of one ceil, in Mbit/s."""
    return json.dumps([{"name": n, "rate": "1Mbit", "ceil": f"{ceil}Mbit", "match": LANES[n]} for n in lanes])


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
        found = cls(Kubectl(kubectl, Path(kubeconfig)), helm)
        # The tests delete namespaces: they must never meet somebody's own.
        context = found.kubectl("config", "current-context").strip()
        assert context == CONTEXT, f"these tests are for the cluster {CONTEXT}, and KUBECONFIG is for {context}"
        return found

    def helm(self, *arguments: str) -> str:
        """Run helm as the administrator, to its success."""
        done = subprocess.run(
            [self.helm_program, f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={SYSTEM}", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        """Install the chart as docs/how-to/install.md says, in a namespace that allows no Pod special rights."""
        self.make_namespace(SYSTEM, {"pod-security.kubernetes.io/enforce": "restricted"})
        self.helm("install", "podlane", "charts/podlane", "--wait", f"--timeout={PATIENCE}", f"--set={CHART_VALUES}")

    def upgrade(self, *values: str) -> None:
        """Change values of the chart (as for helm's --set), all others being as they were installed.

        Injectors with other settings replace those that run; these answer for some seconds after helm has returned,
        on the connections that the API server has to them.
        """
        system = self.kubectl.within(SYSTEM)
        template = system.get("deployment", INJECTORS)["spec"]["template"]
        before = _uids(system)
        self.helm(
            "upgrade", "podlane", "charts/podlane", "--wait", f"--timeout={PATIENCE}", "--reset-values",
            *(f"--set={value}" for value in (CHART_VALUES, *values)),
        )  # fmt: skip
        if system.get("deployment", INJECTORS)["spec"]["template"] != template:
            until("the old injectors to be gone", lambda: not before & _uids(system), patience=90)

    def upgrade_or_install(self) -> None:
        """As it was installed, whatever has become of it."""
        if "podlane" in self.helm("list", "--short"):
            self.upgrade()
        else:
            self.helm(
                "install", "podlane", "charts/podlane", "--wait", f"--timeout={PATIENCE}", f"--set={CHART_VALUES}"
            )

    def allow_agents(self) -> None:
        """Allow the chart's namespace Pods with the rights of agents, as docs/how-to/agent-kubernetes.md says."""
        label = "pod-security.kubernetes.io/enforce=privileged"
        self.kubectl("label", "--overwrite", "namespace", SYSTEM, label)

    def injects(self) -> bool:
        """Whether a Pod that is created now gets a sidecar; it is a dry run. False: the API server does not reach the injectors."""
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

    def need_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Make it, unless an earlier test has."""
        if not self.kubectl("get", "namespace", name, "--ignore-not-found"):
            self.make_namespace(name, labels)

    def clear(self, *, wait: bool = True) -> None:
        """Uninstall the chart, and delete the namespaces of the tests with all that is in them."""
        self.helm("uninstall", "podlane", "--ignore-not-found", "--wait", f"--timeout={PATIENCE}")
        gone = (
            "delete",
            "namespace",
            *NAMESPACES,
            "--ignore-not-found",
            f"--wait={wait}".lower(),
            f"--timeout={PATIENCE}",
        )
        self.kubectl(*gone, timeout=200)

    def in_node(self, *command: str) -> str:
        """Run a command on the node as root; gives what it wrote, also of what failed."""
        (node,) = self.kubectl.list("nodes")
        done = subprocess.run(
            ["docker", "exec", node["metadata"]["name"], *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def restart_node(self) -> None:
        """As after a loss of power: all that ran there is started again. The API server is away for a while."""
        (node,) = self.kubectl.list("nodes")
        subprocess.run(["docker", "restart", node["metadata"]["name"]], check=True, capture_output=True, timeout=120)

    def kill(self, container: Mapping[str, Any], signal: str) -> None:
        """Send a signal to the first process of a container, by its status, from the node: from within it is not stopped."""
        identity = container["containerID"].removeprefix("containerd://")
        said = self.in_node("ctr", "--namespace=k8s.io", "tasks", "kill", f"--signal={signal}", identity)
        assert said == ""


def _uids(kubectl: Kubectl) -> set[str]:
    """Of all Pods, those that are ending included."""
    return {pod["metadata"]["uid"] for pod in kubectl.list("pods")}


@dataclass(frozen=True)
class Server:
    """A Pod whose nginx reads request bodies to their end before it answers."""

    kubectl: Kubectl
    name: str = "server"

    @classmethod
    def start(cls, kubectl: Kubectl, name: str = "server", *others: dict[str, Any], **spec: Any) -> Self:
        """Create it beside its configuration; ``others`` are further containers, ``spec`` adds to the Pod's."""
        container = {
            "name": "nginx", "image": APPLICATION, "command": ["sh", "-c", _SERVE],
            "readinessProbe": {"tcpSocket": {"port": PORTS["tls"]}, "periodSeconds": 1},
            "volumeMounts": [{"name": "configuration", "mountPath": "/etc/server"}, {"name": "memory", "mountPath": "/tmp"}],
        }  # fmt: skip
        volumes = [
            {"name": "configuration", "configMap": {"name": name}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ]
        kubectl.create({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"nginx.conf": _NGINX},
        })  # fmt: skip
        kubectl.create({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [container, *others], "volumes": volumes, "terminationGracePeriodSeconds": 1, **spec},
        })  # fmt: skip
        made = cls(kubectl, name)
        made.until_ready()
        return made

    @property
    def document(self) -> dict[str, Any]:
        return self.kubectl.get("pod", self.name)

    def address(self, family: int = 4) -> str:
        """Where it is now, by IPv4 or IPv6 (6), as URLs have it: after a restart of the node a Pod has other addresses."""
        ours = {ip.version: ip for ip in (ip_address(each["ip"]) for each in self.document["status"]["podIPs"])}
        if family not in ours:
            pytest.skip(f"the cluster has no IPv{family}: make kind-up gives it both where the kernel has both")
        return f"[{ours[family]}]" if family == 6 else str(ours[family])

    def until_ready(self) -> None:
        self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", f"--timeout={PATIENCE}", timeout=200)


@dataclass(frozen=True)
class Client:
    """A Pod of a Deployment whose application sends with curl."""

    kubectl: Kubectl
    pod: str

    @classmethod
    def start(cls, kubectl: Kubectl, name: str, annotations: Mapping[str, str] = ANNOTATIONS) -> Self:
        """Create a Deployment, and wait until its Pod is ready."""
        return cls.of_owner(kubectl, deployment(name, annotations))

    @classmethod
    def of_owner(cls, kubectl: Kubectl, document: Mapping[str, Any]) -> Self:
        """Create an owner of one Pod, as :func:`owner` has it, and wait until that is ready."""
        kubectl.create(document)
        name: str = document["metadata"]["name"]
        rolled_out(kubectl, f"{document['kind']}/{name}")
        return cls.of(kubectl, name)

    @classmethod
    def of(cls, kubectl: Kubectl, name: str) -> Self:
        """The one Pod with the label ``app: NAME`` that is not ending."""
        pods = [p for p in kubectl.list("pods") if p["metadata"].get("labels", {}).get("app") == name]
        (pod,) = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
        return cls(kubectl, pod["metadata"]["name"])

    @property
    def document(self) -> dict[str, Any]:
        return self.kubectl.get("pod", self.pod)

    def run(self, *command: str, container: str = "app", timeout: float = 60.0) -> str:
        """Run a command in a container."""
        return self.kubectl("exec", self.pod, f"--container={container}", "--", *command, timeout=timeout)

    def upload(self, server: Server, size: int, host: str, port: str, family: int = 4) -> float:
        """Send so many bytes as the body of a request; gives the rate in Mbit/s, until the server had them all."""
        return rate_of(self.run("sh", "-c", upload(server, size, host, port, family=family)), size)

    def is_held(self, server: Server, size: int, host: str, port: str, family: int = 4, *, ceil: float = CEIL) -> bool:
        """Whether it sends at what a lane of that ceil lets through, and never above.

        Other work on the machine can slow an upload down, so one that is too slow is repeated, twice at most.
        """
        for _ in range(ATTEMPTS):
            rate = self.upload(server, size, host, port, family)
            if held(rate, ceil):
                return True
            print(f"{rate:.2f} Mbit/s of {ceil}")
            if rate > ceil:
                return False
        return False

    def status_of(self, container: str) -> dict[str, Any]:
        """What the kubelet says of a container."""
        status = self.document["status"]
        statuses = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
        found: dict[str, Any] = next(c for c in statuses if c["name"] == container)
        return found

    def has_come_back(self, restarts: int, *containers: str) -> bool:
        """Whether the application was started more often than that, and these containers are ready; False also while
        there is no API server."""
        try:
            statuses = [self.status_of(name) for name in ("app", *containers)]
        except RefusedError:
            return False
        return statuses[0]["restartCount"] > restarts and all(status["ready"] for status in statuses)

    def events(self, reason: str) -> list[dict[str, Any]]:
        """Those about it with that reason."""
        chosen = f"--field-selector=involvedObject.name={self.pod},reason={reason}"
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "events", chosen, "--output=json"))["items"]
        return found

    def failed_probes(self) -> int:
        """Of the kubelet, as its events tell them."""
        return sum(event.get("count", 1) for event in self.events("Unhealthy"))

    @contextmanager
    def asking(self, server: Server, host: str = "video.example.com") -> Iterator[None]:
        """Requests one after the other during the block, each on a connection of its own; fails if one of them does."""
        ask = f"curl --silent --show-error --fail --max-time 10 --output /dev/null --header 'Host: {host}' http://{server.address()}"
        script = (
            f"asked=0; while [ ! -e {_ENOUGH} ]; do {ask} || exit 1; asked=$((asked + 1)); echo $asked >{_ASKED}; done"
        )
        self.run("rm", "-f", _ENOUGH, _ASKED)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(self.run, "sh", "-c", script, timeout=200)
            until(
                "a request that is answered",
                lambda: asking.done() or self.run("sh", "-c", f"[ ! -e {_ASKED} ] || cat {_ASKED}"),
                patience=60,
            )
            try:
                yield
            finally:
                self.run("touch", _ENOUGH)
            asking.result(60)
        answered = int(self.run("cat", _ASKED))
        print(f"{answered} requests answered")
        assert answered > 20

    def lanes(self) -> dict[str, dict[str, Any]]:
        """The classes in force, by name, as the sidecar's own server tells them."""
        told = json.loads(self.run("curl", "--silent", "--show-error", "http://127.0.0.1:15109/classes"))
        return {c["name"]: c for c in told["classes"]}


def upload(server: Server, size: int, host: str, port: str, *, patience: int = 50, family: int = 4) -> str:
    """A shell command that sends so many bytes and writes what :func:`rate_of` reads; ``port`` is a key of PORTS.

    It fails after ``patience`` seconds.
    """
    scheme = "https" if port == "tls" else "http"
    return upload_to(server.address(family), f"{scheme}://{host}:{PORTS[port]}/", size, patience)


def upload_to(address: str, url: str, size: int, patience: int = 50) -> str:
    """The same for any URL with a port; ``address`` is where its host is."""
    authority = url.split("/")[2]
    return (
        f"head -c {size} /dev/zero | curl --silent --show-error --insecure --http1.1 --header 'Expect:' --data-binary @- "
        f"--output /dev/null --write-out '%{{http_code}} %{{size_upload}} %{{time_total}} %{{time_connect}}' --max-time {patience} "
        f"--resolve '{authority}:{address}' {url}"
    )


def rate_of(said: str, size: int) -> float:
    """Mbit/s of an upload, from its beginning to the server's answer."""
    code, sent, seconds, connected = said.split()
    assert (code, int(sent)) == ("200", size), said
    if float(connected) > SLOW_TO_CONNECT:
        print(f"connected only after {connected} s")
    return size * 8 / float(seconds) / 1e6


def held(rate: float, ceil: float = CEIL) -> bool:
    """Whether a rate (Mbit/s) is what a lane of that ceil lets through: some may have been waiting as burst."""
    return 0.85 * ceil * PAYLOAD_SHARE <= rate <= 1.1 * ceil


def application(*command: str, **more: Any) -> dict[str, Any]:
    """A container that cannot do more than an ordinary one; without a command it waits to be used."""
    rights = {"runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    given = {"command": list(command)} if command else {}
    return {"name": "app", "image": APPLICATION, "securityContext": rights, **given, **more}


def web_server() -> dict[str, Any]:
    """An application that the kubelet asks each second, by HTTP and TCP, and that logs the former; one failure is enough."""
    serve = (
        "printf 'events {}\\nhttp { server { listen 80; } }\\n' >/etc/nginx/nginx.conf && exec nginx -g 'daemon off;'"
    )
    return {
        "name": "app", "image": APPLICATION, "command": ["sh", "-c", f"ln -sf /dev/stdout /var/log/nginx/access.log; {serve}"],
        "startupProbe": {"exec": {"command": ["curl", "--fail", "--silent", "http://127.0.0.1"]}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {"httpGet": {"port": 80}, **EACH_SECOND}, "livenessProbe": {"tcpSocket": {"port": 80}, **EACH_SECOND},
    }  # fmt: skip


def template(name: str, annotations: Mapping[str, str] = ANNOTATIONS, **spec: Any) -> dict[str, Any]:
    """A Pod template with the label ``app: NAME``; ``spec`` adds to its spec, or replaces what is in it."""
    return {
        "metadata": {"labels": {"app": name}, "annotations": dict(annotations)},
        "spec": {"containers": [application()], "terminationGracePeriodSeconds": 6, **spec},
    }


def deployment(name: str, annotations: Mapping[str, str] = ANNOTATIONS, **spec: Any) -> dict[str, Any]:
    return owner("Deployment", name, annotations, **spec)


def owner(kind: str, name: str, annotations: Mapping[str, str] = ANNOTATIONS, **spec: Any) -> dict[str, Any]:
    """A Deployment, a StatefulSet or a DaemonSet of one Pod of the node; ``spec`` is as for :func:`template`."""
    more = {"serviceName": name} if kind == "StatefulSet" else {}
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name, annotations, **spec), **more},
    }  # fmt: skip


def job_spec(name: str, container: dict[str, Any]) -> dict[str, Any]:
    """Of a Job whose container is run once."""
    return {"backoffLimit": 0, "template": template(name, containers=[container], restartPolicy="Never")}


def lone_pod(name: str, annotations: Mapping[str, str] = ANNOTATIONS, **spec: Any) -> dict[str, Any]:
    """A Pod without an owner; ``spec`` is as for :func:`template`."""
    document = {"apiVersion": "v1", "kind": "Pod", **template(name, annotations, **spec)}
    document["metadata"]["name"] = name
    return document


def rolled_out(kubectl: Kubectl, what: str) -> None:
    """Wait until all Pods of a Deployment, StatefulSet or DaemonSet (``KIND/NAME``) are its newest, and ready."""
    kubectl("rollout", "status", what, f"--timeout={PATIENCE}", timeout=200)


def completed(kubectl: Kubectl, job: str) -> Client:
    """Wait until a Job has succeeded; its Pod, which has the same name as its label."""
    kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=90s", timeout=120)
    return Client.of(kubectl, job)


def last_words(status: dict[str, Any]) -> str:
    """What a container that has ended wrote to its termination log; it must have succeeded."""
    ended = status["state"]["terminated"]
    assert ended["exitCode"] == 0, ended
    return str(ended["message"])
