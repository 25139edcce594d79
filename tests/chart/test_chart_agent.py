"""The chart's DaemonSet of node agents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from asking import ANY, about_pods, selects, webhook_configurations
from rendering import CHART, NAMESPACE, HelmError, Values, helm, of_kind, render, the
from schemas import KUBERNETES, problems
from value_sets import VALUE_SETS

from cluster_operator import settings as operator_settings
from node_agent.cni.life import wants_plugin
from node_agent.settings import AgentSettings, load_settings

ALONE = Values({"agent": {"enabled": True}})
EVERYTHING = Values(
    {
        "imagePullSecrets": [{"name": "registry"}],
        "serviceMonitor": {"enabled": True},
        "dashboard": {"enabled": True},
        "agent": {
            "enabled": True,
            "mode": "agent",
            "adminAddress": "::",
            "adminPort": 9999,
            "cni": {
                "enabled": True,
                "onFailure": "closed",
                "exemptNamespaces": ["dns", "kube-system"],
                "confDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d",
                "binDir": "/var/lib/rancher/k3s/data/cni",
            },
            "logFormat": "console",
            "logLevel": "debug",
            "resources": {"requests": {"memory": "1Gi"}},
            "podAnnotations": {"example.com/a": "b"},
            "podLabels": {"team": "network"},
            "nodeSelector": {"pool": "edge"},
            "tolerations": [],
            "priorityClassName": "",
        },
    }
)
CLEANUP = Values({"agent": {**EVERYTHING.values["agent"], "cleanup": True}})
EACH = pytest.mark.parametrize("case", [ALONE, EVERYTHING, CLEANUP], ids=["alone", "everything", "cleanup"])


def pod_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    spec = the(manifests, "DaemonSet")["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def settings_of(manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> AgentSettings:
    """As the agent reads them from its variables, on the node n1."""
    (container,) = pod_of(manifests)["containers"]
    for variable in container["env"]:
        by_node = variable.get("valueFrom") == {"fieldRef": {"fieldPath": "spec.nodeName"}}
        monkeypatch.setenv(variable["name"], "n1" if by_node else variable["value"])
    return load_settings({})


def test_there_is_none_unless_it_is_wanted() -> None:
    assert not list(of_kind(render(Values({})), "DaemonSet"))


@EACH
def test_helm_lint_passes(case: Values) -> None:
    said = helm("lint", "--strict", str(CHART), "--values", "-", stdin=yaml.safe_dump(dict(case.values)))
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.mark.usefixtures("_schemas")
@pytest.mark.parametrize("version", KUBERNETES)
@EACH
def test_kubernetes_accepts_the_agent(case: Values, version: str) -> None:
    manifests = render(replace(case, kubernetes=version))
    assert [problem for manifest in manifests for problem in problems(manifest, version)] == []
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
    assert len(set(names)) == len(names)


def test_the_agent_takes_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings_of(render(EVERYTHING), monkeypatch)
    assert (made.node, made.mode, made.admin_address, made.admin_port) == ("n1", "agent", "::", 9999)
    assert (made.log_format, made.log_level) == ("console", "debug")


def test_at_which_end_lanes_are_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(render(ALONE), monkeypatch).enforce == "pod"
    assert settings_of(render(Values({"agent": {"enabled": True, "enforce": "host"}})), monkeypatch).enforce == "host"


def test_by_default_it_holds_only_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(ALONE)
    assert settings_of(manifests, monkeypatch).mode == "none"
    spec = pod_of(manifests)
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_it_sees_processes_and_networks_of_its_node_and_keeps_its_state_there() -> None:
    spec = pod_of(render(ALONE))
    assert spec["hostPID"] is True
    assert "hostNetwork" not in spec
    assert spec["enableServiceLinks"] is False
    (container,) = spec["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/run/netns"]["mountPropagation"] == "HostToContainer"
    paths = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in spec["volumes"]}
    assert {place: paths[mount["name"]] for place, mount in mounts.items()} == {
        "/run": None, "/run/podlane/agent": "/run/podlane/agent", "/run/netns": "/run/netns",
    }  # fmt: skip
    assert str(AgentSettings().state) in mounts


def test_the_operators_rights_are_these_and_one_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(ALONE)
    mine = [m for m in manifests if m["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"]
    rights = {
        (resource, verb) for role in of_kind(mine, "ClusterRole") for rule in role["rules"]
        for resource in rule["resources"] for verb in rule["verbs"]
    }  # fmt: skip
    policies = ("trafficpolicies", "clustertrafficpolicies")
    watched = {*policies, "trafficreports", "pods", "namespaces"}
    assert rights == {
        *((each, verb) for each in watched for verb in ("list", "watch")),
        *((f"{each}/status", "patch") for each in policies), ("events", "create"), ("events", "patch"), ("pods", "patch"),
        *(("envoyfilters", verb) for verb in ("create", "delete", "get", "list", "patch", "update", "watch")),
    }  # fmt: skip
    (rule,) = the(mine, "Role")["rules"]
    deployment = the(mine, "Deployment")["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = operator_settings.load_settings({})
    assert (rule["resources"], rule["resourceNames"], rule["verbs"]) == (
        ["leases"],
        [settings.lease],
        ["get", "update"],
    )
    assert the(mine, "Lease")["metadata"]["name"] == settings.lease
    assert container["ports"][0]["containerPort"] == settings.admin_port
    assert deployment["replicas"] == 2
    off = Values({"agent": {"enabled": True}, "operator": {"enabled": False}})
    assert not [m for m in render(off) if m["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"]
    for alone, there in (({}, False), ({"alone": True}, True), ({"alone": True, "enabled": False}, False)):
        without_agents = render(Values({"operator": alone}))
        roles = {m["metadata"]["name"] for m in of_kind(without_agents, "ClusterRole")}
        assert any("operator" in name for name in roles) is there
        assert any(name.startswith("edit-policies") for name in roles) is there
        webhooks = the(without_agents, "ValidatingWebhookConfiguration")["webhooks"]
        assert any(webhook["name"] == "policies.validate.podlane.io" for webhook in webhooks) is there


def test_who_may_edit_a_namespace_may_edit_its_policies() -> None:
    added = {
        label.rpartition("/")[2]: (rule["resources"], rule["verbs"])
        for role in of_kind(render(ALONE), "ClusterRole")
        for label in role["metadata"]["labels"]
        if "aggregate-to" in label
        for rule in role["rules"]
    }
    assert added["aggregate-to-view"] == (["trafficpolicies"], ["get", "list", "watch"])
    assert added["aggregate-to-edit"] == added["aggregate-to-admin"]
    assert set(added["aggregate-to-edit"][1]) == {"create", "delete", "deletecollection", "patch", "update"}


def test_the_injector_may_list_pods_only_where_it_warns_of_them() -> None:
    def reviewing(case: Values) -> list[dict[str, Any]]:
        roles = (each for each in of_kind(render(case), "ClusterRole") if "policy-review" in each["metadata"]["name"])
        return [rule for role in roles for rule in role["rules"]]

    assert {
        (resource, verb) for rule in reviewing(ALONE) for resource in rule["resources"] for verb in rule["verbs"]
    } == {(resource, "list") for resource in ("pods", "namespaces", "trafficpolicies", "clustertrafficpolicies")}
    assert reviewing(Values({})) == []


def test_the_api_server_itself_keeps_who_writes_reports_where_it_can() -> None:
    api = ("admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",)

    def kept(case: Values) -> list[str]:
        return [each["metadata"]["name"] for each in of_kind(render(case), "ValidatingAdmissionPolicy")]

    assert len(kept(replace(ALONE, apis=api))) == 2
    assert kept(replace(ALONE, apis=api, kubernetes="v1.29.9")) == []
    assert kept(Values({}, apis=api)) == []
    without = Values({"agent": {"enabled": True}, "operator": {"enabled": False}}, apis=api)
    (reports,) = kept(without)
    assert reports == "podlane-reports-podlane-podlane-system"


def test_its_rights_are_these_and_its_own() -> None:
    manifests = render(ALONE)
    account = the([m for m in manifests if m["metadata"]["name"] == "podlane-agent"], "ServiceAccount")
    bindings = [
        m
        for m in of_kind(manifests, "ClusterRoleBinding")
        if {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": NAMESPACE} in m["subjects"]
    ]
    (role,) = (m for m in of_kind(manifests, "ClusterRole") if m["metadata"]["name"] == bindings[0]["roleRef"]["name"])
    assert len(bindings) == 1
    rights = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert rights == {
        ("pods", "list"), ("pods", "watch"), ("namespaces", "get"), ("configmaps", "get"),
        ("events", "create"), ("events", "patch"),
        ("trafficpolicies", "list"), ("trafficpolicies", "watch"),
        ("clustertrafficpolicies", "list"), ("clustertrafficpolicies", "watch"),
        ("trafficreports", "get"), ("trafficreports", "create"), ("trafficreports", "patch"), ("nodes", "get"),
    }  # fmt: skip
    assert pod_of(manifests)["serviceAccountName"] == account["metadata"]["name"]


def test_the_cni_plugin_is_where_the_nodes_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(EVERYTHING)
    made = settings_of(manifests, monkeypatch)
    assert (made.cni_on_failure, made.exempt_namespaces) == ("closed", ("dns", "kube-system", NAMESPACE))
    spec = pod_of(manifests)
    paths = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in spec["volumes"]}
    (container,) = spec["containers"]
    mounts = {mount["mountPath"]: paths[mount["name"]] for mount in container["volumeMounts"]}
    for place in (made.cni_conf_dir, made.cni_bin_dir, made.state):
        assert mounts[str(place)] == str(place), "the socket's path is read on the node"
    daemon_set = the(manifests, "DaemonSet")
    own = [m for m in manifests if m["metadata"]["name"] == daemon_set["metadata"]["name"]]
    role, binding = the(own, "Role"), the(own, "RoleBinding")
    assert made.daemon_set == f"{NAMESPACE}/{daemon_set['metadata']['name']}"
    assert wants_plugin(daemon_set)
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [daemon_set["metadata"]["name"]], "verbs": ["get"]}
    ]  # fmt: skip
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == spec["serviceAccountName"]


def test_without_the_cni_plugin_the_node_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(ALONE)
    assert settings_of(manifests, monkeypatch).cni_conf_dir is None
    assert not wants_plugin(the(manifests, "DaemonSet"))


def test_no_selector_of_the_injector_meets_it() -> None:
    manifests = render(Values({"agent": {"enabled": True}, "operator": {"enabled": False}}))
    labels = the(manifests, "DaemonSet")["spec"]["template"]["metadata"]["labels"].items()
    assert the(manifests, "DaemonSet")["spec"]["selector"]["matchLabels"].items() <= labels
    for selector in (
        the(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        the(manifests, "Service")["spec"]["selector"],
        the(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert not selector.items() <= labels


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"mode": "sidecar"}, "/agent/mode"),
        ({"cni": {"onFailure": "shut"}}, "/agent/cni/onFailure"),
        ({"enforce": "node"}, "/agent/enforce"),
        ({"adminPort": 0}, "/agent/adminPort"),
        ({"node": "a"}, "node"),
    ],
)
def test_wrong_values_of_the_agent_are_refused(values: dict[str, Any], place: str) -> None:
    with pytest.raises(HelmError, match=place):
        render(Values({"agent": {"enabled": True, **values}}))


@pytest.mark.parametrize(
    ("mode", "on_namespace", "on_pod", "asked"),
    [
        ("none", "agent", None, "/validate/agent"),
        ("none", "agent", "none", "/validate/agent"),
        ("none", None, "agent", "/validate/agent"),
        ("none", "none", "agent", "/validate/agent"),
        ("none", None, None, None),
        ("none", "sidecar", None, None),
        ("agent", None, None, "/validate/agent/by-default"),
        ("agent", None, "agent", "/validate/agent"),
        ("agent", "agent", None, "/validate/agent"),
        ("agent", None, "none", None),
        ("agent", "sidecar", None, None),
    ],
)
def test_labels_decide_whether_an_injector_is_asked_about_an_agents_pod(
    mode: str, on_namespace: str | None, on_pod: str | None, asked: str | None
) -> None:
    """By one webhook at most, whose absence holds up nobody, and by no mutating one."""
    manifests = render(Values({"agent": {"enabled": True, "mode": mode}}))
    namespace = {"kubernetes.io/metadata.name": "shop", **({"podlane.io/mode": on_namespace} if on_namespace else {})}
    labels = {"podlane.io/mode": on_pod} if on_pod else {}
    mutating, validating = (
        [
            webhook
            for webhook in about_pods(configuration)
            if selects(webhook["namespaceSelector"], namespace) and selects(webhook.get("objectSelector", ANY), labels)
            and webhook["name"] != "update.validate.podlane.io"
        ]
        for configuration in webhook_configurations(manifests)
    )  # fmt: skip
    assert [webhook["clientConfig"]["service"]["path"] for webhook in validating] == ([asked] if asked else [])
    assert all(webhook["failurePolicy"] == "Ignore" for webhook in validating)
    assert not mutating


def test_without_agents_nobody_is_asked_for_them() -> None:
    names = [w["name"] for c in webhook_configurations(render(VALUE_SETS["defaults"])) for w in c["webhooks"]]
    assert not [name for name in names if "agent" in name]


def test_cleanup_is_done_with_what_the_agent_has_and_the_pod_is_ready_after_it() -> None:
    agent, cleanup = pod_of(render(EVERYTHING)), pod_of(render(CLEANUP))
    (container,), (cleaner,) = agent["containers"], cleanup["initContainers"]
    assert cleaner["args"] == ["agent", "--cleanup"]
    for key in ("image", "securityContext", "volumeMounts", "resources"):
        assert cleaner[key] == container[key]
    for key in ("hostPID", "volumes", "nodeSelector", "tolerations", "priorityClassName"):
        assert cleanup.get(key) == agent.get(key)
    assert [each["name"] for each in cleanup["containers"]] == ["done"]
    assert [m["kind"] for m in render(CLEANUP)].count("DaemonSet") == 1


def test_a_start_is_no_warning() -> None:
    """It takes a second until it listens, or some on a busy node: kubelets tell each probe that fails meanwhile."""
    (container,) = pod_of(render(ALONE))["containers"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["initialDelaySeconds"] >= 3
