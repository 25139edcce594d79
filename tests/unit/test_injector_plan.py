"""Plans: which Pods are injected, which are left alone and why, which are refused, and what the containers are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from injected_pods import (
    LANES,
    LANES_BY_NAME,
    LIMITS,
    NAMES,
    SHARED,
    USUAL,
    container,
    environment,
    injected,
    names,
    no_shared,
    planned,
    pod,
)

from injector.errors import DefaultsError, InjectionError, SharedPolicyError
from injector.pod.containers import drain_seconds
from injector.pod.defaults import InjectionDefaults
from injector.pod.plan import _REMEMBERED_TEXT, InjectionPlan, Skip, _evaluate, plan
from sidecar.config.settings import SidecarSettings
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.settings import ADMIN_PORT, OUTBOUND_PORT, service_behind


def required(operator: str, *values: str) -> dict[str, Any]:
    """A node affinity by operating system, with two alternatives."""
    about_os = {"key": "kubernetes.io/os", "operator": operator, "values": list(values)}
    terms = [{"matchExpressions": [{"key": "disk", "operator": "Exists"}, about_os]}, {"matchExpressions": [about_os]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


SKIPPED = {
    "label": (pod(labels={"podlane.io/inject": "false"}), False, 'label podlane.io/inject is "false"'),
    "label, with what would be refused": (
        pod(annotations={"podlane.io/typo": ""}, labels={"podlane.io/inject": "false"}), False, '"false"',
    ),
    "mirror": (pod(annotations={**LIMITS, "kubernetes.io/config.mirror": "hash"}), True, "static Pod"),
    "host network": (pod(hostNetwork=True), True, "whole node"),
    "host network, asked for": (pod(hostNetwork=True, labels={"podlane.io/inject": "true"}), True, "whole node"),
    "windows": (pod(os={"name": "windows"}), True, "Windows"),
    "windows nodes by affinity": (pod(affinity=required("In", "windows")), True, "Windows"),
    "nodes without Linux": (pod(affinity=required("NotIn", "linux")), True, "Windows"),
    "windows nodes": (pod(nodeSelector={"kubernetes.io/os": "windows"}), True, "Windows"),
    "no limits": (pod(annotations={"team": "a"}), True, "no limits"),
    "no annotations": ({"spec": {"containers": []}}, True, "no limits"),
    "only a status": (pod(annotations={"podlane.io/status": "{}"}), True, "no limits"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "unexpected", "word"), SKIPPED.values(), ids=SKIPPED)
def test_pods_that_are_left_alone(given: dict[str, Any], unexpected: bool, word: str) -> None:
    skip = plan(given, USUAL, no_shared)
    assert isinstance(skip, Skip)
    assert skip.unexpected is unexpected
    assert word in skip.reason


REFUSED = {
    "wrong": (pod(annotations={"podlane.io/egress-bandwidth": "10X"}), "podlane.io/egress-bandwidth: '10X' is not"),
    "misspelt": (pod(annotations={"podlane.io/egres-bandwidth": "10M"}), "Did you mean podlane.io/egress-bandwidth?"),
    "asked for without limits": (
        pod(annotations={}, labels={"podlane.io/inject": "true"}), "no limit is set. Add this annotation",
    ),
    "label that is neither": (pod(labels={"podlane.io/inject": "yes"}), 'podlane.io/inject: \'yes\' is not a value of this label. Write "true" or "false"'),
    "label that is no text": (pod(labels={"podlane.io/inject": True}), "in quotes"),  # type: ignore[dict-item]
    "annotation that is no text": (pod(annotations={"podlane.io/egress-bandwidth": 10}), "10 is not a text. Put it in quotes."),  # type: ignore[dict-item]
    "a container of that name": (pod("app", "podlane"), "a container podlane of its own"),
    "an init container of that name": (pod(init=("podlane-prepare",)), "a container podlane-prepare of its own"),
    "a volume of that name": (pod(volumes=[{"name": "podlane-run"}]), "a volume podlane-run of its own"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED)
def test_pods_that_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises((AnnotationsError, InjectionError)) as caught:
        plan(given, USUAL, no_shared)
    assert words in str(caught.value)


def test_a_bandwidth_of_kubernetes_is_a_limit() -> None:
    assert names(injected(pod(annotations={"kubernetes.io/egress-bandwidth": "10M"})), "initContainers") == ["podlane"]


# --- the container -----------------------------------------------------------------------------------------------------


def test_the_container_and_its_volumes() -> None:
    after = injected(pod(securityContext={"runAsNonRoot": True, "runAsUser": 1000}))
    mine = container(after)
    assert mine == {
        "name": "podlane",
        "image": "podlane:test",
        "command": ["podlane", "sidecar", "--annotations", "/etc/podlane/pod/annotations"],
        "env": [
            {"name": "PODLANE_ADMIN_ADDRESS", "value": "127.0.0.1"},
            {"name": "PODLANE_ADMIN_PORT", "value": "15109"},
            {"name": "PODLANE_GRACE", "value": "25s"},
            {"name": "PODLANE_INBOUND_PORT", "value": "15106"},
            {"name": "PODLANE_LOG_FORMAT", "value": "json"},
            {"name": "PODLANE_OUTBOUND_PORT", "value": "15101"},
        ],
        "resources": {"requests": {"cpu": "20m", "memory": "80Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [
            {"name": "podlane-pod", "mountPath": "/etc/podlane/pod", "readOnly": True},
            {"name": "podlane-run", "mountPath": "/run"},
            {
                "name": "podlane-run",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "subPath": "no-token",
                "readOnly": True,
            },
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN", "SETGID"], "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "restartPolicy": "Always",
        "livenessProbe": {
            "exec": {"command": ["podlane", "ready", "--alive"]},
            "periodSeconds": 30,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "startupProbe": {
            "exec": {"command": ["podlane", "ready", "--wait", "4s"]},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 24,
        },
    }
    assert after["spec"]["volumes"] == [
        {
            "name": "podlane-pod",
            "downwardAPI": {
                "items": [
                    {"path": "annotations", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations"}}
                ]
            },
        },
        {"name": "podlane-run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]


@pytest.mark.parametrize(
    ("match", "capabilities"),
    [("sni: a.example.com", ["NET_ADMIN", "BPF", "SETGID"]), ("port: 443", ["NET_ADMIN", "SETGID"])],
    ids=["by name", "by port"],
)
def test_the_sidecar_may_load_programs_where_only_sockets_tell_classes_of_what_arrives(
    match: str, capabilities: list[str]
) -> None:
    lanes = f"[{{name: a, rate: 1Mbit, ingress: {{rate: 1Mbit}}, match: {{{match}}}}}]"
    annotations = {**LIMITS, "podlane.io/ingress-bandwidth": "10M", "podlane.io/classes": lanes}
    after = injected(pod(annotations=annotations))
    assert container(after)["securityContext"]["capabilities"] == {"add": capabilities, "drop": ["ALL"]}
    # Not where nobody would load one.
    aside = {**annotations, "podlane.io/datapath": "step-aside"}
    for without, added in (
        (injected(pod(annotations=annotations), replace(USUAL, bpf=False)), ["NET_ADMIN", "SETGID"]),
        (injected(pod(annotations=aside)), ["NET_ADMIN"]),
    ):
        assert container(without)["securityContext"]["capabilities"] == {"add": added, "drop": ["ALL"]}


def test_the_sidecar_may_load_the_programs_of_datapath_ebpf() -> None:
    annotations = {**LIMITS, "podlane.io/datapath": "ebpf"}
    for defaults, added in ((USUAL, ["NET_ADMIN", "BPF", "PERFMON"]), (replace(USUAL, bpf=False), ["NET_ADMIN"])):
        security = container(injected(pod(annotations=annotations), defaults))["securityContext"]
        assert security["capabilities"] == {"add": added, "drop": ["ALL"]}
        assert not security["allowPrivilegeEscalation"]
    beside = container(injected(pod(annotations={**annotations, "podlane.io/mesh": "istio"}), USUAL))
    assert beside["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "BPF", "PERFMON"]


def test_what_the_injectors_own_datapath_cannot_keep_is_refused() -> None:
    aside = replace(USUAL, environment=(("PODLANE_DATAPATH", "step-aside"),))
    annotations = {**LIMITS, "podlane.io/policy": "lanes"}

    def shared(_name: str) -> str:
        return "{total: 10Mbit, requests: follow, classes: [{name: a, rate: 1Mbit, match: {host: a.example.com}}]}"

    with pytest.raises(AnnotationsError, match=r"podlane\.io/datapath: requests: .* Use datapath: relay"):
        plan(pod(annotations=annotations), aside, shared)
    plan(pod(annotations={**annotations, "podlane.io/datapath": "relay"}), aside, shared)
    # What arrives is told by the mark of its connection, if the node's kernel can.
    lanes = "[{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {sni: a.example.com}}]"
    limited = {**LIMITS, "podlane.io/ingress-bandwidth": "10M", "podlane.io/classes": lanes}
    assert planned(pod(annotations=limited), aside)


@pytest.mark.parametrize(
    ("period", "drain"), [(30, 25), (60, 55), (600, 595), (10, 5), (8, 4), (6, 3), (3, 1), (1, 0), (0, 0)]
)
def test_the_grace_period_is_shared_out(period: int, drain: int) -> None:
    assert drain_seconds(period) == drain
    after = injected(pod(terminationGracePeriodSeconds=period))
    assert environment(after)["PODLANE_GRACE"] == f"{drain}s"


def test_settings_of_the_administrator_reach_the_sidecar() -> None:
    defaults = InjectionDefaults(
        image="registry.example.com/podlane@sha256:1",
        image_pull_policy="Always",
        environment=(("PODLANE_ADMIN_ADDRESS", "0.0.0.0"), ("PODLANE_ADMIN_PORT", "9901"), ("PODLANE_GRACE", "7s")),
    )
    after = injected(pod(), defaults)
    assert container(after)["image"] == "registry.example.com/podlane@sha256:1"
    assert container(after)["imagePullPolicy"] == "Always"
    assert environment(after) == {
        "PODLANE_ADMIN_ADDRESS": "0.0.0.0",
        "PODLANE_ADMIN_PORT": "9901",
        "PODLANE_GRACE": "7s",
        "PODLANE_INBOUND_PORT": "15106",
        "PODLANE_LOG_FORMAT": "json",
        "PODLANE_OUTBOUND_PORT": "15101",
    }
    assert container(after)["ports"] == [{"name": "podlane-admin", "containerPort": 9901, "protocol": "TCP"}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_pull_policy": "Sometimes"},
        {"cpu_limit": "much"},
        {"environment": (("PATH", "/"),)},
        {"environment": (("PODLANE_POLICY", "/p"),)},
        {"environment": (("PODLANE_ADMIN_PORT", "0"),)},
        {"environment": (("PODLANE_ADMIN_PORT", str(OUTBOUND_PORT)),)},
        {"environment": (("PODLANE_ADMIN_PORT", "tcp://10.0.0.1:80"),)},
        {"environment": (("PODLANE_OUTBOUND_PORT", "65536"),)},
        {"environment": (("PODLANE_OUTBOUND_PORT", str(ADMIN_PORT)),)},
    ],
    ids=lambda wrong: "-".join(map(str, *wrong.values())) if wrong.get("environment") else next(iter(wrong)),
)
def test_wrong_defaults_are_refused_with_a_remedy(wrong: dict[str, Any]) -> None:
    with pytest.raises(DefaultsError, match=r"(Write|Name|Choose)"):
        InjectionDefaults(**wrong)


def test_no_service_of_the_namespace_can_take_the_place_of_a_setting() -> None:
    """A Pod's own env wins over what the kubelet adds for Services, so each setting that it could add must be there."""
    settings = {f"PODLANE_{field.upper()}" for field in SidecarSettings.model_fields}
    in_danger = {setting for setting in settings if service_behind(setting)}
    assert "PODLANE_ADMIN_PORT" in in_danger
    assert in_danger <= environment(injected(pod())).keys()


# --- policies that Pods share ------------------------------------------------------------------------------------------


def test_a_shared_policy_is_mounted_and_part_of_the_status() -> None:
    given = pod(annotations=SHARED)
    first = plan(given, USUAL, {"lanes": LANES}.get)
    other = plan(given, USUAL, {"lanes": LANES_BY_NAME}.get)
    assert isinstance(first, InjectionPlan)
    assert isinstance(other, InjectionPlan)
    (mine,) = first.items["initContainers"]
    assert mine["command"][-2:] == ["--shared-policy", "/etc/podlane/policy"]
    assert {"name": "podlane-policy", "mountPath": "/etc/podlane/policy", "readOnly": True} in mine["volumeMounts"]
    items = [{"key": "policy.yaml", "path": "lanes/policy.yaml"}]
    assert {"name": "podlane-policy", "configMap": {"name": "lanes", "items": items}} in first.items["volumes"]
    assert first.status.policy != other.status.policy


def test_a_shared_policy_that_is_not_there_is_refused() -> None:
    with pytest.raises(AnnotationsError, match="no ConfigMap lanes"):
        plan(pod(annotations=SHARED), USUAL, lambda _: None)


def test_a_shared_policy_that_cannot_be_read_now_is_a_warning_and_the_rest_is_checked() -> None:
    def unreachable(_: str) -> str | None:
        raise SharedPolicyError("the API server does not answer.")

    result = plan(pod(annotations=SHARED), USUAL, unreachable)
    assert isinstance(result, InjectionPlan)
    assert result.warnings == ("ConfigMap lanes was not checked: the API server does not answer.",)
    assert result.status.policy is None
    with pytest.raises(AnnotationsError, match="on-failure"):
        plan(pod(annotations={**SHARED, "podlane.io/on-failure": "maybe"}), USUAL, unreachable)


# --- Pods that end by themselves ---------------------------------------------------------------------------------------

JOBS: dict[str, dict[str, Any]] = {
    "restartPolicy Never": {"restartPolicy": "Never"},
    "restartPolicy OnFailure": {"restartPolicy": "OnFailure"},
}


@pytest.mark.parametrize("spec", JOBS.values(), ids=JOBS)
def test_jobs_can_end(spec: dict[str, Any]) -> None:
    assert not planned(pod(annotations=NAMES, **spec)).warnings
    assert names(injected(pod(annotations=NAMES, **spec)), "containers") == ["app"]


def test_what_else_is_warned_of() -> None:
    taken = pod("app", "consul-dataplane")
    taken["spec"]["containers"][0]["ports"] = [{"containerPort": 80}, {"containerPort": OUTBOUND_PORT}]
    assert planned(taken).warnings == (
        "Podlane has not been tried in a Pod with Consul, which redirects connections, too.",
        "Container app uses port 15101, on which Podlane listens in the Pod.",
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"runtimeClassName": "gvisor"}, "not been tried on gVisor (runtime class gvisor)"),
        ({"runtimeClassName": "runsc-kvm"}, "not been tried on gVisor (runtime class runsc-kvm)"),
        ({"runtimeClassName": "Kata-qemu"}, "not been tried on Kata Containers (runtime class Kata-qemu)"),
        ({"runtimeClassName": "gvisor-runsc" + "x" * 241}, "(runtime class gvisor-runscxxx"),
        ({"shareProcessNamespace": True}, "programs of user 0, or with the capability KILL, can end the sidecar"),
    ],
    ids=["gVisor", "gVisor by its program", "Kata", "a long name", "shared process namespace"],
)
def test_pods_that_are_isolated_otherwise_are_warned_of(spec: dict[str, Any], words: str) -> None:
    (warning,) = planned(pod(**spec)).warnings
    assert words in warning
    assert len(f"podlane: {warning}") <= 256


@pytest.mark.parametrize(
    "spec",
    [{"runtimeClassName": "nvidia"}, {"runtimeClassName": 5}, {"shareProcessNamespace": False}],
    ids=["another runtime", "no name", "not shared"],
)
def test_others_are_not(spec: dict[str, Any]) -> None:
    assert planned(pod(**spec)).warnings == ()


def test_equal_annotations_are_evaluated_once() -> None:
    _evaluate.cache_clear()
    first = plan(pod(annotations=LIMITS), USUAL, no_shared)
    again = plan(pod(annotations={**LIMITS, "podlane.io/status": "{}", "team": "a"}), USUAL, no_shared)
    assert isinstance(first, InjectionPlan)
    assert isinstance(again, InjectionPlan)
    assert again.status.policy == first.status.policy
    assert (_evaluate.cache_info().misses, _evaluate.cache_info().hits) == (1, 1)
    other = plan(pod(annotations={**LIMITS, "podlane.io/egress-bandwidth": "7M"}), USUAL, no_shared)
    assert isinstance(other, InjectionPlan)
    assert other.status.policy != first.status.policy


def test_long_texts_are_not_kept() -> None:
    _evaluate.cache_clear()
    plan(pod(annotations={**LIMITS, "podlane.io/classes": f"[]  # {'x' * _REMEMBERED_TEXT}"}), USUAL, no_shared)
    assert _evaluate.cache_info().currsize == 0


@pytest.mark.parametrize(
    "affinity",
    [
        required("In", "windows", "linux"),
        required("NotIn", "windows"),
        {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        {"nodeAffinity": 5},
    ],
)
def test_a_pod_that_linux_nodes_may_run_is_injected(affinity: Any) -> None:
    assert isinstance(plan(pod(affinity=affinity), USUAL, no_shared), InjectionPlan)


@pytest.mark.parametrize("volume", ["podlane-run", "podlane-pod", "podlane-policy"])
@pytest.mark.parametrize("key", ["containers", "initContainers"])
def test_nobody_else_may_mount_the_sidecars_volumes(volume: str, key: str) -> None:
    spy = {"name": "spy", "image": "spy", "volumeMounts": [{"name": volume, "mountPath": "/x"}]}
    with pytest.raises(InjectionError, match=f"Container spy mounts {volume}, which only the sidecar may"):
        plan(pod(**{key: [spy]}), USUAL, no_shared)
