"""Pods through the real API server and the real injectors: what developers create, and what they get."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from cluster import Cluster
from kubectl import RefusedError
from manifests import IMAGE, INJECTED, LIMITED, deployment, job, pod
from release import Release
from waiting import until

pytestmark = pytest.mark.usefixtures("release")

CLASSES = '[{name: api, rate: 2Mbit, match: {sni: "*.example.com"}}]'
SIDECAR = {
    "name": "podlane",
    "image": "podlane:0.2.0",
    "imagePullPolicy": "IfNotPresent",
    "command": ["podlane", "sidecar", "--annotations", "/etc/podlane/pod/annotations"],
    "env": [
        {"name": "PODLANE_ADMIN_ADDRESS", "value": "127.0.0.1"},
        {"name": "PODLANE_ADMIN_PORT", "value": "15109"},
        {"name": "PODLANE_GRACE", "value": "25s"},
        {"name": "PODLANE_INBOUND_PORT", "value": "15106"},
        {"name": "PODLANE_LOG_FORMAT", "value": "json"},
        {"name": "PODLANE_OUTBOUND_PORT", "value": "15101"},
    ],
    "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "20m", "memory": "80Mi"}},
    "restartPolicy": "Always",
    "livenessProbe": {
        "exec": {"command": ["podlane", "ready", "--alive"]},
        "periodSeconds": 30,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
        "successThreshold": 1,
    },
    "startupProbe": {
        "exec": {"command": ["podlane", "ready", "--wait", "4s"]},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 24,
        "successThreshold": 1,
    },
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
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "FallbackToLogsOnError",
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
}
VOLUMES = [
    {
        "name": "podlane-pod",
        "downwardAPI": {
            "defaultMode": 420,
            "items": [{"path": "annotations", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations"}}],
        },
    },
    {"name": "podlane-run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
]


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]


def injected(stored: dict[str, Any]) -> bool:
    return "podlane" in names(stored["spec"].get("initContainers", []))


def without_tokens(stored: dict[str, Any]) -> dict[str, Any]:
    """A Pod's spec without the ServiceAccount's token, which the API server mounts under a random name."""
    spec: dict[str, Any] = json.loads(json.dumps(stored["spec"]))
    spec["volumes"] = [v for v in spec["volumes"] if "kube-api-access" not in v["name"]]
    for container in spec["containers"] + spec.get("initContainers", []):
        container["volumeMounts"] = [m for m in container["volumeMounts"] if "kube-api-access" not in m["name"]]
    return spec


def test_a_pod_gets_exactly_the_sidecar(cluster: Cluster) -> None:
    own: dict[str, Any] = {
        "initContainers": [{"name": "migrate", "image": IMAGE}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    stored = cluster.namespace(INJECTED).create(pod(**own))
    plain = cluster.namespace().create(pod(**own))

    sidecar, migrate = (json.dumps(container) for container in stored["spec"]["initContainers"])
    assert "kube-api-access" in migrate
    assert "kube-api-access" not in sidecar, "the application's token is not for it"

    spec, untouched = without_tokens(stored), without_tokens(plain)
    assert names(spec["initContainers"]) == ["podlane", "migrate"]
    assert spec["initContainers"].pop(0) == SIDECAR
    assert spec["volumes"][-2:] == VOLUMES
    del spec["volumes"][-2:]
    assert spec == untouched, "and nothing else has changed"

    status = json.loads(stored["metadata"]["annotations"].pop("podlane.io/status"))
    assert status["injected"] == {
        "initContainers": ["podlane"], "containers": [], "volumes": ["podlane-pod", "podlane-run"], "imagePullSecrets": [],
    }  # fmt: skip
    assert stored["metadata"]["annotations"] == plain["metadata"]["annotations"]
    assert stored["metadata"].get("labels") == plain["metadata"].get("labels")


@pytest.mark.parametrize(
    ("namespace", "label", "expected"),
    [
        pytest.param(namespace, label, expected, id=f"namespace {namespace}, Pod {label}")
        for namespace, label, expected in [
            ("enabled", None, True),
            ("enabled", "true", True),
            ("enabled", "false", False),
            (None, None, False),
            (None, "true", True),
            (None, "false", False),
            ("disabled", None, False),
            ("disabled", "true", True),
        ]
    ],
)
def test_labels_decide(cluster: Cluster, namespace: str | None, label: str | None, expected: bool) -> None:
    kubectl = cluster.namespace({"podlane.io/inject": namespace} if namespace else None)
    assert injected(kubectl.create(pod(labels={"podlane.io/inject": label} if label else None))) is expected


def test_namespaces_that_must_work_without_are_left_alone(cluster: Cluster, release: Release) -> None:
    for name in ("kube-system", release.namespace):
        kubectl = cluster.kubectl.within(name)
        kubectl("label", "namespace", name, "podlane.io/inject=enabled")
        try:
            assert not injected(kubectl.create(pod(labels={"podlane.io/inject": "true"}), "--dry-run=server"))
        finally:
            kubectl("label", "namespace", name, "podlane.io/inject-")


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        pytest.param(
            {"podlane.io/egress-bandwith": "10M"},
            "podlane.io/egress-bandwith: There is no such annotation. Did you mean podlane.io/egress-bandwidth?",
            id="misspelt",
        ),
        pytest.param({"podlane.io/egress-bandwidth": "fast"}, "podlane.io/egress-bandwidth: ", id="no quantity"),
        pytest.param(LIMITED | {"podlane.io/ingress-bandwidth": "10"}, "podlane.io/ingress-bandwidth: ", id="too little"),
        pytest.param(
            LIMITED | {"podlane.io/classes": "[{name: a, rate: 8Mbit, match: {port: 1}}, {name: b, rate: 8Mbit, match: {port: 2}}]"},
            "Cannot guarantee 16",
            id="guarantees that do not fit",
        ),
        pytest.param({"podlane.io/classes": CLASSES}, "podlane.io/egress-bandwidth", id="no total"),
        pytest.param(LIMITED | {"podlane.io/policy": "nobody-made-it"}, "nobody-made-it", id="no ConfigMap"),
    ],
)  # fmt: skip
def test_a_developer_reads_why_a_pod_is_refused(cluster: Cluster, annotations: dict[str, str], message: str) -> None:
    kubectl = cluster.namespace(INJECTED)
    with pytest.raises(RefusedError) as refused:
        kubectl.create(pod(annotations))
    said = str(refused.value)
    assert 'admission webhook "namespace.inject.podlane.io" denied the request: ' in said
    assert message in said
    assert kubectl("get", "pods", "-o", "name") == ""


def test_pods_share_a_policy(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    policy = "total: 50Mbit\nclasses: [{name: api, rate: 5Mbit, match: {sni: api.example.com}}]\n"
    kubectl.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lanes"}, "data": {"policy.yaml": policy}}
    )
    stored = kubectl.create(pod({"podlane.io/policy": "lanes"}))
    sidecar = stored["spec"]["initContainers"][0]
    assert sidecar["command"][-2:] == ["--shared-policy", "/etc/podlane/policy"]
    assert {"name": "podlane-policy", "mountPath": "/etc/podlane/policy", "readOnly": True} in sidecar["volumeMounts"]
    (volume,) = (v["configMap"] for v in stored["spec"]["volumes"] if v["name"] == "podlane-policy")
    assert volume["name"] == "lanes"
    assert volume["items"] == [{"key": "policy.yaml", "path": "lanes/policy.yaml"}]

    kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "wrong"},
            "data": {"policy.yaml": "total: 1Mbit\nclasses: [{name: api, rate: 5Mbit, match: {port: 1}}]"},
        }
    )
    with pytest.raises(RefusedError, match="Cannot guarantee 5 Mbit/s inside 1 Mbit/s"):
        kubectl.create(pod({"podlane.io/policy": "wrong"}))


def test_a_pod_on_the_nodes_network_is_let_in_with_a_warning(cluster: Cluster) -> None:
    done = cluster.namespace(INJECTED).run("create", "-f", "-", "-o", "json", stdin=json.dumps(pod(hostNetwork=True)))
    assert not injected(json.loads(done.stdout))
    assert done.stderr.startswith("Warning: podlane: ")
    assert "It uses its node's network" in done.stderr


def test_dry_runs_show_the_sidecar_and_generated_names_get_it(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    document = pod()
    document["metadata"]["generateName"] = document["metadata"].pop("name") + "-"
    assert injected(kubectl.create(document, "--dry-run=server"))
    assert kubectl("get", "pods", "-o", "name") == ""
    stored = kubectl.create(document)
    assert stored["metadata"]["name"].startswith("app-")
    assert injected(stored)


@pytest.mark.parametrize("workload", [deployment(), job()], ids=["Deployment", "Job"])
def test_controllers_pods_get_the_sidecar(cluster: Cluster, workload: dict[str, Any]) -> None:
    kubectl = cluster.namespace(INJECTED)
    kubectl.create(workload)
    expected = workload["spec"].get("replicas", 1)

    def pods() -> list[dict[str, Any]] | None:
        found = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
        return found if len(found) == expected else None

    for stored in until("the controller's Pods", pods):
        assert names(stored["spec"]["initContainers"]) == ["podlane"]
        assert names(stored["spec"]["containers"]) == ["app"]


def test_what_was_injected_offline_is_not_injected_twice(cluster: Cluster) -> None:
    """Of another version or with other settings, too: the injector puts right what it finds."""
    kubectl = cluster.namespace(INJECTED)
    made = subprocess.run(
        [sys.executable, "-m", "podlane", "inject", "-f", "-", "--image", "elsewhere.example.com/podlane:9"],
        input=json.dumps(pod()), capture_output=True, text=True, check=True,
    )  # fmt: skip
    offline = json.loads(made.stdout)
    assert names(offline["spec"]["initContainers"]) == ["podlane"]
    stored = kubectl.create(offline)
    assert names(stored["spec"]["initContainers"]) == ["podlane"]
    assert sorted(names(stored["spec"]["volumes"]))[-2:] == ["podlane-pod", "podlane-run"]


def test_pod_security_baseline_refuses_the_sidecar(cluster: Cluster) -> None:
    """NET_ADMIN is not allowed there; whoever reads the refusal sees that it is the sidecar's."""
    kubectl = cluster.namespace(INJECTED | {"pod-security.kubernetes.io/enforce": "baseline"})
    with pytest.raises(
        RefusedError, match=r'violates PodSecurity "baseline.*container "podlane" must not include "NET_ADMIN"'
    ):
        kubectl.create(pod())


def test_running_pods_stay_changeable(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    kubectl.create(pod())
    kubectl("label", "pod", "app", "tier=web")
    kubectl("annotate", "pod", "app", "--overwrite", "podlane.io/egress-bandwidth=20M")
    stored = kubectl.get("pod", "app")
    assert stored["metadata"]["annotations"]["podlane.io/egress-bandwidth"] == "20M"
    kubectl("delete", "pod", "app", "--grace-period=0", "--force")


def test_where_a_namespace_enforces_limits_no_pod_opts_out(cluster: Cluster) -> None:
    kubectl = cluster.namespace({"podlane.io/enforce": "true"})
    assert injected(kubectl.create(pod(LIMITED)))
    for refused in (pod({}), pod(LIMITED, labels={"podlane.io/inject": "false"})):
        with pytest.raises(
            RefusedError, match=r'"enforced\.inject\.podlane\.io" denied .* Every Pod of this namespace'
        ):
            kubectl.create(refused)


def test_a_namespace_has_defaults_and_a_maximum_for_its_pods(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    cluster.kubectl(
        "annotate", "namespace", kubectl.namespace, "podlane.io/egress-bandwidth=20M",
        "podlane.io/max-egress-bandwidth=50M",
    )  # fmt: skip
    stored = kubectl.create(pod({}))
    assert injected(stored)
    assert stored["metadata"]["annotations"]["podlane.io/egress-bandwidth"] == "20M"
    with pytest.raises(RefusedError, match="51M is more than the namespace allows its Pods, 50M"):
        kubectl.create(pod({"podlane.io/egress-bandwidth": "51M"}))


def test_a_container_that_only_looks_like_podlanes_is_replaced(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    right = kubectl.create(pod(LIMITED), "--dry-run=server")
    wrong = pod(LIMITED)
    wrong["metadata"]["annotations"] = right["metadata"]["annotations"]
    spec = without_tokens(right)
    sidecar = {**spec["initContainers"][0], "image": "evil:1", "command": ["sleep", "inf"]}
    wrong["spec"] = {**wrong["spec"], "initContainers": [sidecar], "volumes": spec["volumes"]}
    assert without_tokens(kubectl.create(wrong))["initContainers"][0] == SIDECAR
