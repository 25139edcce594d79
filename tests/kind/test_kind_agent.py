"""Pods without a sidecar in a kind cluster, held by the agent of their node."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from istio_proxy import Service
from kind_agents import AGENTS, agent_of, agents_container, told, until_in_force
from kind_cluster import (
    ANNOTATIONS,
    CEIL,
    LATER_NAMESPACE,
    SIZE,
    SYSTEM,
    Client,
    KindCluster,
    Server,
    application,
    classes,
    completed,
    deployment,
    held,
    job_spec,
    last_words,
    lone_pod,
    owner,
    rate_of,
    rolled_out,
    upload,
)
from kind_mesh import meshed_deployment
from kubectl import Kubectl, RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

STARTS: Final = 6


def started(lanes: Kubectl, name: str) -> Client:
    pod = Client.start(lanes, name)
    until_in_force(pod)
    return pod


@pytest.fixture(scope="module")
def web(lanes: Kubectl) -> Client:
    """A Pod of a Deployment."""
    return started(lanes, "web")


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_pods_of_all_owners_are_held_without_a_sidecar(lanes: Kubectl, server: Server, kind: str) -> None:
    name = kind.lower()
    pod = Client.of_owner(lanes, owner(kind, name))
    until_in_force(pod)
    assert [c["name"] for c in pod.document["spec"]["containers"]] == ["app"]
    assert "initContainers" not in pod.document["spec"]
    for host, port in (("video.example.com", "http"), ("secret.example.com", "tls"), ("other.example.com", "bulk")):
        assert pod.is_held(server, SIZE, host, port)
    assert pod.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL
    lanes("delete", kind, name, "--wait=false")


def test_a_job_is_held_and_completes(lanes: Kubectl, server: Server) -> None:
    """What it sends in the moment before the agent knows of it is not held; this is its second upload."""
    once = upload(server, SIZE, "video.example.com", "http")
    container = application("sh", "-c", f"{once} >/dev/null && {once} >/dev/termination-log")
    spec = job_spec("job", container)
    lanes.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec})
    assert held(rate_of(last_words(completed(lanes, "job").status_of("app")), SIZE))


def test_a_changed_annotation_is_in_force_without_a_restart(web: Client, server: Server) -> None:
    assert web.is_held(server, SIZE, "video.example.com", "http")
    web.kubectl("annotate", "--overwrite", "pod", web.pod, f"podlane.io/classes={classes(2 * CEIL, ['video'])}")
    until_in_force(web, "shared by video, default.")
    assert web.is_held(server, 2 * SIZE, "video.example.com", "http", ceil=2 * CEIL)
    web.kubectl("annotate", "--overwrite", "pod", web.pod, f"podlane.io/classes={classes()}")
    until("the first limits", lambda: web.is_held(server, SIZE, "video.example.com", "http"), patience=60)
    assert web.status_of("app")["restartCount"] == 0


def restarts(cluster: KindCluster) -> int:
    """How often the agent's container was started anew and is ready; -1 while it is not."""
    status = agents_container(cluster)
    return int(status["restartCount"]) if status.get("ready") else -1


def test_an_agent_killed_under_load_is_missed_by_nobody(agents: KindCluster, web: Client, server: Server) -> None:
    before = until("an agent", lambda: restarts(agents) + 1, patience=60) - 1
    with web.asking(server):
        agents.kill(agents_container(agents), "SIGKILL")
        assert web.is_held(server, SIZE, "other.example.com", "bulk")
        until("the next agent", lambda: restarts(agents) > before, patience=60)
    assert web.is_held(server, SIZE, "video.example.com", "http")


def test_an_upgrade_of_the_agents_is_noticed_by_nobody(agents: KindCluster, web: Client, server: Server) -> None:
    before = told(web, "LanesProgrammed")
    old = agent_of(agents)["metadata"]["uid"]
    with web.asking(server):
        agents.kubectl.within(SYSTEM)("rollout", "restart", AGENTS)
        rolled_out(agents.kubectl.within(SYSTEM), AGENTS)
    assert agent_of(agents)["metadata"]["uid"] != old
    assert web.is_held(server, SIZE, "video.example.com", "http")
    assert told(web, "LanesProgrammed") == before, "what is adopted is not told again"


def test_a_drained_node_has_lanes_for_who_comes_back(agents: KindCluster, lanes: Kubectl, server: Server) -> None:
    pod = started(lanes, "drained")
    (node,) = (each["metadata"]["name"] for each in agents.kubectl.list("nodes"))
    try:
        agents.kubectl("drain", node, "--pod-selector=app=drained", "--ignore-daemonsets", "--timeout=60s", timeout=90)
    finally:
        agents.kubectl("uncordon", node)
    rolled_out(lanes, "deployment/drained")
    again = Client.of(lanes, "drained")
    assert again.pod != pod.pod
    until_in_force(again)
    assert again.is_held(server, SIZE, "video.example.com", "http")


def test_sidecar_and_agent_hold_pods_side_by_side(web: Client, client: Client, lanes: Kubectl, server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        rates = list(pool.map(lambda pod: pod.upload(server, SIZE, "video.example.com", "http"), (web, client)))
    assert all(map(held, rates)), rates
    own = deployment("own")
    own["spec"]["template"]["metadata"]["labels"]["podlane.io/inject"] = "true"
    pod = Client.of_owner(lanes, own)
    assert [c["name"] for c in pod.document["spec"]["initContainers"]] == ["podlane"]
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    assert told(pod, "LanesProgrammed") == told(pod, "LanesFailed") == []
    lanes("delete", "deployment", "own", "--wait=false")


def test_kubectl_podlane_asks_agents_and_sidecars(agents: KindCluster, web: Client, client: Client) -> None:
    """Through kubelets, which forward ports."""
    (node,) = (each["metadata"]["name"] for each in agents.kubectl.list("nodes"))
    row = next(line for line in podlane(agents, "status").splitlines() if line.startswith(node))
    assert agent_of(agents)["metadata"]["name"] in row
    assert " none " in row, "the mode of Pods that say none"
    for pod, holder in ((web, "held by the agent of its node"), (client, "held by a sidecar")):
        said = podlane(agents, "explain", pod.pod, "-n", pod.kubectl.namespace)
        assert holder in said
        assert "class video    1Mbit to 8Mbit" in said
        assert "In force on eth0" in said, said
        shown = podlane(agents, "top", pod.pod, "-n", pod.kubectl.namespace, "--once")
        assert all(name in shown for name in ("video", "secret", "bulk", "default"))
    assert f"{web.kubectl.namespace}/{web.pod}" in podlane(agents, "top", "-A", "--once")


def test_top_goes_on_while_its_agent_is_replaced(agents: KindCluster, web: Client, tmp_path: Path) -> None:
    """It says that the old one is away, and that there is a new one."""
    printed, said = tmp_path / "printed", tmp_path / "said"
    command, environment = plugin(agents, "top", web.pod, "-n", web.kubectl.namespace, "--json")
    with printed.open("w") as out, said.open("w") as err:
        top = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            until("a line", printed.read_text, patience=30)
            agents.kubectl.within(SYSTEM)("rollout", "restart", AGENTS)
            rolled_out(agents.kubectl.within(SYSTEM), AGENTS)
            new = f"Connected again: {web.kubectl.namespace}/{web.pod}"
            until(
                "a line about the new agent", lambda: top.poll() is not None or new in printed.read_text(), patience=60
            )
            assert top.poll() is None, said.read_text()
        finally:
            top.terminate()
            top.wait(10)
    print(said.read_text())
    assert "It is tried again." in said.read_text()
    last = json.loads(printed.read_text().splitlines()[-1])
    assert {each["name"] for each in last["classes"]} == {"video", "secret", "bulk", "default"}


def test_the_start_of_an_agent_is_no_warning(agents: KindCluster) -> None:
    """Of the one that has just taken the place of another: it was not asked before it could answer."""
    name = agent_of(agents)["metadata"]["name"]
    chosen = f"--field-selector=involvedObject.name={name},type=Warning"
    said = json.loads(agents.kubectl.within(SYSTEM)("get", "events", chosen, "--output=json"))["items"]
    assert [each["message"] for each in said] == []


def plugin(cluster: KindCluster, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """A command of the plugin of kubectl, which is found by its name, and its environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "KUBECONFIG": str(cluster.kubectl.kubeconfig)}
    return [cluster.kubectl.program, "podlane", *arguments], environment


def podlane(cluster: KindCluster, *arguments: str) -> str:
    """What the plugin prints."""
    command, environment = plugin(cluster, *arguments)
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout


def test_a_pod_in_the_nodes_network_is_refused(agents: KindCluster, lanes: Kubectl) -> None:
    """By the webhook; by an Event where it was there before its namespace became the agent's."""
    with pytest.raises(RefusedError, match="limits there would hold the whole node"):
        lanes.create(lone_pod("host", hostNetwork=True))
    agents.make_namespace(LATER_NAMESPACE)
    later = agents.kubectl.within(LATER_NAMESPACE)
    later.create(lone_pod("host", hostNetwork=True))
    later("label", "namespace", LATER_NAMESPACE, "podlane.io/mode=agent")
    (said,) = until("the refusal", lambda: told(Client(later, "host"), "LanesRefused"), patience=60)
    assert "hostNetwork" in said
    later("delete", "pod", "host", "--grace-period=1")


def test_pods_that_end_are_no_matter_of_warnings(lanes: Kubectl) -> None:
    """It comes after tests that deleted Pods: the network of a Pod goes a moment before the Pod."""
    assert "No resources found" in lanes.run("get", "events", "--field-selector=reason=LanesFailed").stderr


def test_behind_istios_proxy_names_decide(lanes: Kubectl, server: Server) -> None:
    service = Service("api.default.svc.cluster.local", 8000, server.address(), 80)
    pod = Client.of_owner(lanes, meshed_deployment("meshed", ANNOTATIONS, service))
    until_in_force(pod)
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    assert pod.is_held(server, SIZE, "secret.example.com", "tls")
    # By TLS: each connection of the application is one of Envoy's, which keeps those of HTTP for whatever host comes next.
    assert pod.upload(server, SIZE, "other.example.com", "tls") > 2 * CEIL
    lanes("delete", "deployment", "meshed", "--wait=false")


def seconds_until_ready(kubectl: Kubectl, name: str) -> float:
    """From the request for a Pod until it is ready; it goes afterwards."""
    document = lone_pod(name)
    began = time.monotonic()
    kubectl.create(document)
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", timeout=90)
    took = time.monotonic() - began
    kubectl("delete", "pod", name, "--force", "--grace-period=0")
    return took


def test_pods_are_ready_as_soon_as_without_limits(lanes: Kubectl, elsewhere: Kubectl) -> None:
    """Nothing is put into them, and nothing waits for the agent."""
    times: dict[str, list[float]] = {"with the agent": [], "without": []}
    for number in range(STARTS):
        times["with the agent"].append(seconds_until_ready(lanes, f"start-{number}"))
        times["without"].append(seconds_until_ready(elsewhere, f"start-{number}"))
    medians = {name: statistics.median(each) for name, each in times.items()}
    print({name: f"{median:.2f} s until ready" for name, median in medians.items()})
    assert medians["with the agent"] < medians["without"] + 2
