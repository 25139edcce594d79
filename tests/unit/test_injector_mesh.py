"""Injection beside a mesh: what is recognised in a Pod, and the same whole Pod in whichever order two webhooks come."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from injected_pods import LIMITS, NAMES, container, environment, injected, planned, pod
from istio_pods import FORMS, Form, with_istio

from injector.errors import InjectionError
from injector.pod.defaults import InjectionDefaults
from injector.pod.mesh import PodMesh, mesh_of
from injector.pod.patch import patch

GOLDEN = Path(__file__).parent.parent / "golden" / "mesh"


def plain() -> dict[str, Any]:
    """A Pod with limits by name, an init container and a probe."""
    made = pod(init=("migrate",), annotations=NAMES)
    made["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/ready", "port": 8080}}
    return made


def unordered(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: str(item["name"]))


@pytest.mark.parametrize("name", FORMS)
def test_after_both_webhooks_the_pod_is_the_same_whoever_came_first(name: str) -> None:
    form = FORMS[name]
    after = injected(with_istio(plain(), form))
    # Ours first, then Istio's, then ours once more, as reinvocationPolicy: IfNeeded has it.
    before = injected(with_istio(injected(plain()), form))
    for made in (before, after):
        made["spec"]["volumes"] = unordered(made["spec"]["volumes"])  # whose order means nothing
    assert before["spec"] == after["spec"]
    assert before["metadata"]["annotations"].keys() == after["metadata"]["annotations"].keys()
    assert patch(after, planned(after)) == []

    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump(after["spec"], sort_keys=False, width=120)
    if os.environ.get("PODLANE_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_has_its_form() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(FORMS)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_beside_istio_ours_is_in_its_group_and_told_of_it(form: Form) -> None:
    made = injected(with_istio(plain(), form))
    assert container(made)["securityContext"]["runAsGroup"] == 1337
    assert container(made)["securityContext"]["runAsUser"] == 0
    assert container(made)["securityContext"]["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}
    assert environment(made)["PODLANE_MESH"] == "istio"
    order = [c["name"] for c in (*made["spec"]["initContainers"], *made["spec"]["containers"])]
    rules = "istio-validation" if form.cni else "istio-init"
    assert order.index(rules) < order.index("podlane") < order.index("app")
    if form.native:
        assert order.index("istio-proxy") < order.index("podlane")


def meshed(**changes: Any) -> dict[str, Any]:
    """A Pod of Istio with another identity or mode of its proxy."""
    made = with_istio(plain(), Form())
    proxy = container(made, "istio-proxy")
    if "group" in changes:
        proxy["securityContext"]["runAsGroup"] = changes["group"]
    if "mode" in changes:
        proxy["env"][-1]["value"] = changes["mode"]
    return made


def in_a_template(*arguments: str, **environment: str) -> dict[str, Any]:
    """A Pod into which another of Istio's templates put istio-proxy, without istio-init."""
    made = pod("istio-proxy")
    proxy = container(made, "istio-proxy")
    proxy["args"] = [*arguments, "--domain", "$(POD_NAMESPACE).svc.cluster.local"]
    proxy["env"] = [{"name": name, "value": value} for name, value in environment.items()]
    return made


AMBIENT = pod(labels={"istio.io/dataplane-mode": "ambient"})
REDIRECTED = pod(annotations={**LIMITS, "ambient.istio.io/redirection": "enabled"})
ISTIO = PodMesh("Istio", "istio", 1337, redirects=True)
LINKERD = PodMesh("Linkerd", "linkerd", capabilities=("SETUID",), redirects=True)
CASES = {
    "none": (pod(), None, PodMesh()),
    "Istio": (meshed(), None, PodMesh("Istio", "istio", 1337, redirects=True, ports=(15001, 15006))),
    "Istio, asked for before it is there": (pod(), "istio", ISTIO),
    "Istio, auto": (pod("app", "istio-proxy"), "auto", ISTIO),
    "Istio's witness alone": (pod(init=("istio-validation",)), None, ISTIO),
    "Istio, its group": (meshed(group=1000620001), None, PodMesh("Istio", "istio", 1000620001, redirects=True, ports=(15001, 15006))),
    "Istio, a group that is none": (meshed(group=True), None, PodMesh("Istio", "istio", 1337, redirects=True, ports=(15001, 15006))),
    "proxyless gRPC": (in_a_template("proxy", "sidecar", ISTIO_META_GENERATOR="grpc"), None, PodMesh()),
    "a gateway": (in_a_template("proxy", "router"), None, PodMesh()),
    "a waypoint": (in_a_template("proxy", "waypoint"), None, PodMesh()),
    "proxyless gRPC, by its template": (pod("app", "istio-proxy", annotations={**LIMITS, "inject.istio.io/templates": "grpc-agent"}), None, PodMesh()),
    "Istio, by its own template": (pod("app", "istio-proxy", annotations={**LIMITS, "inject.istio.io/templates": "sidecar,mine"}), None, ISTIO),
    "Istio that intercepts nothing": (meshed(mode="NONE"), None, PodMesh()),
    "Istio, not wanted": (meshed(), "none", PodMesh(setting="none")),
    "ambient, by label": (AMBIENT, None, PodMesh("Istio (ambient)", redirects=True)),
    "ambient, by annotation": (REDIRECTED, None, PodMesh("Istio (ambient)", redirects=True)),
    "ambient, asked for": (AMBIENT, "istio", PodMesh("Istio (ambient)", "auto", redirects=True)),
    "Linkerd": (pod("app", "linkerd-proxy"), None, LINKERD),
    "Linkerd, asked for": (pod(), "linkerd", LINKERD),
    "Consul": (pod("app", "consul-dataplane"), None, PodMesh()),
    "garbage": ({"metadata": 1, "spec": {"containers": [1, {"name": "istio-proxy", "env": 5, "securityContext": []}]}}, None, ISTIO),
}  # fmt: skip


@pytest.mark.parametrize(("given", "asked", "found"), CASES.values(), ids=CASES)
def test_the_mesh_of_a_pod(given: dict[str, Any], asked: str | None, found: PodMesh) -> None:
    before = copy.deepcopy(given)
    assert mesh_of(given, asked) == found
    assert given == before


def test_the_annotation_wins_over_the_injectors_default_and_that_over_the_pod() -> None:
    by_default = InjectionDefaults(image="podlane:test", environment=(("PODLANE_MESH", "none"),))
    assert container(injected(meshed(), by_default))["securityContext"]["runAsGroup"] == 0
    asked = meshed()
    asked["metadata"]["annotations"]["podlane.io/mesh"] = "istio"
    assert container(injected(asked, by_default))["securityContext"]["runAsGroup"] == 1337
    assert environment(injected(asked, by_default))["PODLANE_MESH"] == "istio"


@pytest.mark.parametrize(
    ("more", "capabilities"),
    [
        pytest.param({}, ["NET_ADMIN", "SETGID", "SETUID"], id="relay"),
        pytest.param({"podlane.io/datapath": "step-aside"}, ["NET_ADMIN"], id="step-aside"),
    ],
)
def test_beside_linkerd_the_relays_sockets_may_be_made_in_its_proxys_name(
    more: dict[str, str], capabilities: list[str]
) -> None:
    made = injected(pod("linkerd-proxy", "app", init=("linkerd-init", "migrate"), annotations={**NAMES, **more}))
    assert container(made)["securityContext"]["capabilities"]["add"] == capabilities
    assert environment(made)["PODLANE_MESH"] == "linkerd"
    assert [c["name"] for c in made["spec"]["initContainers"]] == ["linkerd-init", "podlane", "migrate"]


INBOUND = {**LIMITS, "podlane.io/classes": "[{name: in, rate: 1Mbit, match: {sni: a.example, direction: inbound}}]"}
NO_RELAY = [{"podlane.io/datapath": name} for name in ("step-aside", "ebpf")]


def test_what_clients_open_by_name_is_not_for_the_relay() -> None:
    given = with_istio(pod(annotations=INBOUND), Form())
    with pytest.raises(InjectionError, match=r"Class in has inbound matches .*/datapath: step-aside"):
        planned(given)
    for datapath in NO_RELAY:
        assert not planned(with_istio(pod(annotations={**INBOUND, **datapath}), Form())).warnings
    assert not planned(with_istio(pod(annotations=NAMES), Form())).warnings
    assert not planned(pod(annotations=INBOUND)).warnings


def test_ports_of_both_that_are_the_same_are_warned_of() -> None:
    taken = meshed()
    container(taken, "istio-init")["args"][2] = "15101"
    assert "Istio's proxy listens on port 15101, and so does Podlane" in planned(taken).warnings[0]
