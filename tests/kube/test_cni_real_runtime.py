"""A Pod's network as a container runtime makes it, with ``podlane-cni`` chained: lanes before the first packet."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
import pytest
from agents import RunningAgent, agents_to_end, launch_agent
from cluster import Cluster
from cni_runtime import PLUGINS, CniFailure, CniRuntime
from containerd import containerd
from kubectl import Kubectl
from manifests import AGENT
from manifests import pod as pod_document
from waiting import until

from podlane.netns import Lab
from podlane.netns.lab import Host
from podlane.netns.namespace import Namespace
from podlane.netns.tools import find_tool

pytestmark = pytest.mark.root

NETWORK: Final = "10.79.0"
LIMITS: Final = {
    "podlane.io/egress-bandwidth": "50M",
    "podlane.io/classes": "[{name: bulk, rate: 1Mbit, match: {port: 1000}}]",
}


def conflist(folder: Path) -> str:
    ipam = {
        "type": "host-local", "subnet": f"{NETWORK}.0/24", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(folder),
    }  # fmt: skip
    plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}]
    return json.dumps({"cniVersion": "1.0.0", "name": "test", "plugins": plugins})


@dataclass
class CniNode:
    """A node whose Pods have their networks from ptp, with an agent."""

    lab: Lab
    runtime: CniRuntime
    folder: Path
    kubeconfig: Path
    agents: list[RunningAgent]
    kubectl: Kubectl
    made: list[tuple[Host, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    name: str = f"cni-node-{os.getpid()}"

    @property
    def conf(self) -> Path:
        return self.runtime.conf / "10-test.conflist"

    def start(self, *options: str, way: str = "closed") -> RunningAgent:
        """Start an agent, and wait until the runtime finds the plugin."""
        command = ("--node", self.name, "--kubeconfig", str(self.kubeconfig), "--cni-on-failure", way)
        folders = ("--cni-conf-dir", str(self.runtime.conf), "--cni-bin-dir", str(self.runtime.folders[0]))
        agent = launch_agent(self.folder, *command, *folders, "--cni-exempt", "kube-system", *options)
        self.agents.append(agent)
        until("the plugin in the network configuration", lambda: f'"onFailure": "{way}"' in self.conf.read_text())
        return agent

    def pod(self, name: str, annotations: dict[str, str], labels: dict[str, str] | None = None) -> dict[str, str]:
        """A Pod at the API server, whose sandbox is about to be made; what the runtime knows of it."""
        document = pod_document(annotations, AGENT if labels is None else labels, nodeName=self.name)
        document["metadata"]["name"] = name
        made = self.kubectl.create(document)
        return {
            "K8S_POD_NAMESPACE": self.kubectl.namespace, "K8S_POD_NAME": name, "K8S_POD_UID": made["metadata"]["uid"],
        }  # fmt: skip

    def sandbox(self, known: dict[str, str]) -> Host:
        """Its network, as the runtime makes it; no process is in it yet. Raises :class:`CniFailure`."""
        host = self.lab.host(f"sandbox{len(self.lab.hosts)}")
        result = self.runtime.add(host, **known)
        self.made.append((host, result, known))
        return host


@pytest.fixture
def node(cluster: Cluster, kubeconfig: Path, tmp_path: Path) -> Iterator[CniNode]:
    if os.geteuid() or not PLUGINS.joinpath("ptp").exists():
        pytest.skip("run as root where containernetworking-plugins are installed")
    with TemporaryDirectory(prefix="podlane-cni-") as short, Lab("test") as lab, agents_to_end(Path(short)) as agents:
        conf, programs = tmp_path / "net.d", tmp_path / "bin"
        conf.mkdir()
        programs.mkdir()
        router = lab.host("node", forward=True)
        runtime = CniRuntime(router, conf, (programs, PLUGINS))
        made = CniNode(lab, runtime, Path(short), kubeconfig, agents, cluster.namespace())
        made.conf.write_text(conflist(tmp_path / "addresses"))
        yield made
        for host, result, known in made.made:
            runtime.delete(host, result, **known)
        assert not list(tmp_path.glob("addresses/test/10.*")), "an address was not given back"


def send_at_once(pod: Host, count: int) -> None:
    """Datagrams to port 1000 of the node, from the Pod's network."""
    with pod.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"first", (f"{NETWORK}.1", 1000))


def classes(pod: Host) -> dict[str, int]:
    """Packets of each HTB class in the Pod's network, by the class's number."""
    shown = pod.run(["tc", "-s", "class", "show", "dev", "eth0"]).stdout
    return {name: int(sent) for name, sent in re.findall(r"class htb (\S+) .*\n Sent \d+ bytes (\d+) pkt", shown)}


def test_lanes_are_in_force_before_the_first_packet(node: CniNode) -> None:
    agent = node.start()
    known = node.pod("web", LIMITS)
    pod = node.sandbox(known)
    send_at_once(pod, 5)
    workload = f"{node.kubectl.namespace}/web"
    assert agent.workload(workload)["state"] == "programmed"
    assert agent.workload(workload)["network_namespace"] == str(pod.namespace.path)
    assert classes(pod)["1:101"] == 5, "all of them, in their lane"
    (host, result, _) = node.made[0]
    assert result["ips"][0]["address"].startswith(f"{NETWORK}."), "the result of the plugin before"
    node.runtime.check(host, result, **known)
    assert 'podlane_agent_cni_calls_total{outcome="lanes"} 2.0' in agent.get("/metrics")


def test_with_containerd(node: CniNode) -> None:
    if not all(map(find_tool, ("containerd", "ctr", "runc", "gcc"))):
        pytest.skip("containerd, runc and gcc are not installed: make kube-packages")
    programs = node.runtime.folders[0]
    for plugin in ("ptp", "host-local", "loopback"):
        shutil.copy(PLUGINS / plugin, programs)
    agent = node.start()
    with containerd(node.runtime.node, node.folder, node.runtime.conf, programs) as runtime:
        sandbox = runtime.run_sandbox(node.pod("web", LIMITS))
        workload = agent.workload(f"{node.kubectl.namespace}/web")
        assert workload["state"] == "programmed"
        pod = Host("web", Namespace(Path(workload["network_namespace"]).name))
        send_at_once(pod, 5)
        assert classes(pod)["1:101"] == 5
        runtime.remove_sandbox(sandbox)
        agent.stop(signal.SIGKILL)
        known = node.pod("next", LIMITS)
        with pytest.raises(grpc.RpcError, match="agent does not answer"):
            runtime.run_sandbox(known)
        node.start()
        runtime.remove_sandbox(runtime.run_sandbox(known))


def test_pods_that_are_not_the_agents_begin_at_once(node: CniNode) -> None:
    agent = node.start()
    assert not classes(node.sandbox(node.pod("plain", LIMITS, {})))
    assert not classes(node.sandbox({})), "no Pod of Kubernetes"
    assert 'podlane_agent_cni_calls_total{outcome="none"} 2.0' in agent.get("/metrics")


def test_without_an_agent_pods_wait_and_begin_when_it_is_back(node: CniNode) -> None:
    node.start().stop(signal.SIGKILL)
    known = node.pod("web", LIMITS)
    with pytest.raises(CniFailure) as waits:
        node.sandbox(known)
    assert waits.value.document["code"] == 11
    node.sandbox({**known, "K8S_POD_NAMESPACE": "kube-system"})
    node.start()
    assert "1:101" in classes(node.sandbox(known)), "as the kubelet does again and again"


def test_fail_open_lets_pods_begin_and_the_next_agent_finds_them(node: CniNode) -> None:
    node.start(way="open").stop(signal.SIGKILL)
    assert not classes(node.sandbox(node.pod("web", LIMITS)))


@pytest.mark.parametrize("way", ["open", "closed"])
def test_a_pod_whose_limits_cannot_be_honoured(node: CniNode, way: str) -> None:
    node.start(way=way)
    known = node.pod("web", {"podlane.io/egress-bandwidth": "10Mbit"})
    if way == "open":
        assert not classes(node.sandbox(known))
        return
    with pytest.raises(CniFailure, match="is not a Kubernetes quantity") as refused:
        node.sandbox(known)
    assert refused.value.document["code"] == 100


def test_a_sandbox_that_is_made_again_has_its_lanes_again(node: CniNode) -> None:
    agent = node.start()
    known = node.pod("web", LIMITS)
    first = node.sandbox(known)
    second = node.sandbox(known)
    assert "1:101" in classes(second)
    until("the end of the lanes in the first one", lambda: not classes(first))
    assert agent.workload(f"{node.kubectl.namespace}/web")["network_namespace"] == str(second.namespace.path)


def test_while_the_api_server_is_away_pods_that_are_known_begin(node: CniNode, cluster: Cluster) -> None:
    agent = node.start()
    known = node.pod("web", LIMITS)
    workload = f"{node.kubectl.namespace}/web"
    until("that the Pod is known", lambda: agent.workload(workload))
    cluster.stop_apiserver()
    try:
        assert "1:101" in classes(node.sandbox(known))
        with pytest.raises(CniFailure, match="has not told of the Pod") as waits:
            node.sandbox({**known, "K8S_POD_UID": "00000000-0000-4000-8000-000000000000"})
        assert waits.value.document["code"] == 11
    finally:
        cluster.restart_apiserver()


def test_the_plugin_goes_with_its_daemon_set_and_stays_when_an_agent_ends(node: CniNode) -> None:
    before = node.conf.read_text()
    labels = {"app": "agent"}
    container = {
        "name": "agent", "image": "podlane", "env": [{"name": "PODLANE_AGENT_CNI_CONF_DIR", "value": "/etc/cni/net.d"}],
    }  # fmt: skip
    node.kubectl.create(
        {
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        }
    )  # fmt: skip
    option = ("--daemon-set", f"{node.kubectl.namespace}/agent")
    assert node.start(*option).stop() == 0
    assert "podlane-cni" in node.conf.read_text(), "an upgrade"
    last = node.start(*option)
    node.kubectl("delete", "daemonset", "agent", "--wait=true")
    assert last.stop() == 0
    assert json.loads(node.conf.read_text()) == json.loads(before)
