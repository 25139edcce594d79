"""The chart's control plane, and agents that connect to one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from rendering import CHART, NAMESPACE, HelmError, Values, helm, of_kind, render, the
from schemas import KUBERNETES, problems
from value_sets import PROMETHEUS

from control_plane.fleet.token_review import AUDIENCE
from control_plane.settings import ControlPlaneSettings, load_settings
from node_agent import settings as agent_settings

NAME = "podlane-control-plane"
EMBEDDED = Values({"controlPlane": {"enabled": True, "tls": {"secretName": "rest-tls"}}})
PRODUCTION = Values(
    {
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"pullPolicy": "Always"},
        "controlPlane": {
            "enabled": True,
            "image": {"repository": "registry.example.com/podlane-control-plane", "digest": f"sha256:{'a' * 64}"},
            "tls": {"secretName": "rest-tls"},
            "database": {"secretName": "postgresql", "key": "uri"},
            "ca": {"secretName": "agents-ca"},
            "replicas": 3,
            "reviewers": {"thisCluster": "shop/east", "secretName": "reviewers"},
            "agentsNames": ["fleet.example.com", "192.0.2.7"],
            "address": "::",
            "service": {"type": "LoadBalancer", "annotations": {"example.com/a": "b"}},
            "agentsService": {"type": "LoadBalancer", "annotations": {"example.com/c": "d"}},
            "environment": {
                "PODLANE_CONTROL_PLANE_KAFKA": "kafka:9092",
                "PODLANE_CONTROL_PLANE_KAFKA_CONFIG": "/etc/podlane/files/kafka.properties",
            },
            "files": {"secretName": "settings"},
            "logFormat": "console",
            "logLevel": "debug",
            "resources": {"requests": {"memory": "1Gi"}},
            "podAnnotations": {"example.com/e": "f"},
            "podLabels": {"team": "network"},
            "nodeSelector": {"pool": "edge"},
            "tolerations": [{"operator": "Exists"}],
            "priorityClassName": "system-cluster-critical",
        },
        "networkPolicy": {
            "controlPlaneFrom": [{"namespaceSelector": {}}],
            "controlPlanePorts": [5433, 9092],
        },
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "controlPlane": {"tokenSecretName": "podlane-viewer", "caSecretName": "rest-ca"},
        },
    },
    apis=PROMETHEUS,
)
SCALED = Values(
    {
        **PRODUCTION.values,
        "controlPlane": {
            **PRODUCTION.values["controlPlane"],
            "autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 9, "cpuPercent": 60},
            "resources": {"requests": {"cpu": "500m"}},
        },
    }
)
AGENT = Values(
    {
        "agent": {
            "enabled": True,
            "controlPlane": {
                "address": "fleet.example.com:15181,[2001:db8::7]:15443",
                "cluster": "shop/east",
                "ca": {"configMap": "fleet-ca"},
            },
        }
    }
)
AGENT_CLEANUP = Values({"agent": {**AGENT.values["agent"], "cleanup": True}})
LONG = Values({**EMBEDDED.values, "nameOverride": "n" * 60, "revision": "canary"})
EACH = pytest.mark.parametrize(
    "case",
    [EMBEDDED, PRODUCTION, SCALED, LONG, AGENT, AGENT_CLEANUP],
    ids=["embedded", "production", "scaled", "long", "agent", "cleanup"],
)
PLANES = pytest.mark.parametrize("case", [EMBEDDED, PRODUCTION], ids=["embedded", "production"])


def own(case: Values) -> list[dict[str, Any]]:
    """What the control plane alone has."""
    return [
        m for m in render(case) if m["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "control-plane"
    ]


def workload_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (m for m in manifests if m["kind"] in ("StatefulSet", "Deployment"))
    return found


def pod_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    spec = workload_of(manifests)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def settings_of(manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> ControlPlaneSettings:
    """As the control plane reads them from its variables; the URL of the database is that in no Secret."""
    (container,) = pod_of(manifests)["containers"]
    for variable in container["env"]:
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        monkeypatch.setenv(variable["name"], "postgresql://db/podlane" if secret else variable["value"])
    return load_settings({})


def mounted(spec: dict[str, Any], place: str) -> dict[str, Any]:
    """The volume that is at a path, or above it."""
    (container,) = spec["containers"]
    name = next(m["name"] for m in container["volumeMounts"] if f"{place}/".startswith(f"{m['mountPath']}/"))
    return next((v for v in spec.get("volumes", []) if v["name"] == name), {"name": name})


def test_there_is_none_unless_it_is_wanted() -> None:
    manifests = render(Values({"agent": {"enabled": True}}))
    assert not [m for m in manifests if "control-plane" in str(m)]


@EACH
def test_helm_lint_passes(case: Values) -> None:
    said = helm(
        "lint", "--strict", str(CHART), "--kube-version", case.kubernetes, "--values", "-",
        stdin=yaml.safe_dump(dict(case.values)),
    )  # fmt: skip
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.mark.usefixtures("_schemas")
@pytest.mark.parametrize("version", KUBERNETES)
@EACH
def test_kubernetes_accepts_it(case: Values, version: str) -> None:
    if "agent" in case.values and version.startswith("v1.29."):
        with pytest.raises(HelmError, match="tokens of ServiceAccounts"):
            render(replace(case, kubernetes=version))
        return
    manifests = render(replace(case, kubernetes=version))
    assert [problem for manifest in manifests for problem in problems(manifest, version)] == []
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
    assert len(set(names)) == len(names)
    assert all(len(m["metadata"]["name"]) <= (52 if m["kind"] == "StatefulSet" else 63) for m in manifests)


def test_by_default_it_is_one_process_with_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = own(EMBEDDED)
    workload = workload_of(manifests)
    assert (workload["kind"], workload["spec"]["replicas"]) == ("StatefulSet", 1)
    settings = settings_of(manifests, monkeypatch)
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert mounted(pod_of(manifests), str(settings.state))["name"] == claim["metadata"]["name"]
    assert settings.database_url.startswith(f"sqlite:{settings.state}/")
    assert settings.ca_certificate is None, "it makes a CA of its own, in the volume"
    assert not list(of_kind(manifests, "PodDisruptionBudget"))
    assert not list(of_kind(manifests, "ClusterRole"))


def test_with_postgresql_it_is_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = own(PRODUCTION)
    workload = workload_of(manifests)
    assert (workload["kind"], workload["spec"]["replicas"]) == ("Deployment", 3)
    budget = the(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert budget == workload["spec"]["selector"]["matchLabels"]
    settings = settings_of(manifests, monkeypatch)
    (container,) = pod_of(manifests)["containers"]
    (url,) = (v for v in container["env"] if v["name"] == "PODLANE_CONTROL_PLANE_DATABASE")
    assert url["valueFrom"] == {"secretKeyRef": {"name": "postgresql", "key": "uri"}}
    assert settings.database_url == "postgresql://db/podlane"
    assert (settings.kafka, str(settings.kafka_config)) == ("kafka:9092", "/etc/podlane/files/kafka.properties")
    assert (settings.address, settings.agents_address) == ("::", "::")
    assert (settings.log_format, settings.log_level) == ("console", "debug")


def test_an_autoscaler_says_how_many() -> None:
    manifests = own(SCALED)
    workload = workload_of(manifests)
    assert "replicas" not in workload["spec"], "each upgrade would set it back"
    scaler = the(manifests, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": workload["apiVersion"], "kind": workload["kind"], "name": workload["metadata"]["name"],
    }  # fmt: skip
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 60
    assert the(manifests, "PodDisruptionBudget")
    assert not list(of_kind(own(PRODUCTION), "HorizontalPodAutoscaler"))


def test_it_has_the_time_that_draining_takes() -> None:
    from control_plane.fleet import port
    from control_plane.gateway.limits import GatewayLimits
    from control_plane.main import _DRAIN

    needed = _DRAIN + port._MOVE + 2 * port._DRAIN + GatewayLimits().drain_time
    assert pod_of(own(PRODUCTION))["terminationGracePeriodSeconds"] > needed


def test_secrets_are_where_it_looks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = own(PRODUCTION)
    spec, settings = pod_of(manifests), settings_of(manifests, monkeypatch)
    for path, key, secret in (
        (settings.certificate, "tls.crt", "rest-tls"),
        (settings.key, "tls.key", "rest-tls"),
        (settings.ca_certificate, "tls.crt", "agents-ca"),
        (settings.ca_key, "tls.key", "agents-ca"),
        (settings.kafka_config, "kafka.properties", "settings"),
    ):
        assert path is not None
        assert path.name == key
        assert mounted(spec, str(path.parent))["secret"] == {"secretName": secret, "defaultMode": 0o440}
    sources = mounted(spec, str(settings.reviewers))["projected"]["sources"]
    assert sources == [
        {"serviceAccountToken": {"path": "shop.east", "expirationSeconds": 3600}},
        {"secret": {"name": "reviewers"}},
    ]


@PLANES
def test_services_lead_to_its_ports(case: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = own(case)
    settings = settings_of(manifests, monkeypatch)
    (container,) = pod_of(manifests)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"https": settings.port, "agents": settings.agents_port}
    labels = workload_of(manifests)["spec"]["template"]["metadata"]["labels"].items()
    services = {m["metadata"]["name"]: m["spec"] for m in of_kind(manifests, "Service")}
    assert {name: (s["ports"][0]["port"], s["ports"][0]["targetPort"]) for name, s in services.items()} == {
        NAME: (443, "https"), f"{NAME}-agents": (15181, "agents"),
    }  # fmt: skip
    assert all(service["selector"].items() <= labels for service in services.values())
    assert f"{NAME}-agents.{NAMESPACE}.svc" in settings.agents_names
    assert settings.agents_names[0] == case.values["controlPlane"].get("agentsNames", settings.agents_names)[0]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert (container[name]["httpGet"]["port"], container[name]["httpGet"]["scheme"]) == ("https", "HTTPS")
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] != "/healthz", "a database that is away is no reason to end it"


@PLANES
def test_it_meets_the_restricted_standard(case: Values) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    spec = pod_of(own(case))
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


@PLANES
def test_the_first_token_is_in_no_log(case: Values) -> None:
    (container,) = pod_of(own(case))["containers"]
    assert container["command"] == ["sh", "-c", "exec podlane control-plane >/dev/null"]


def test_prometheus_reads_it_by_a_token_of_its_own() -> None:
    monitored = {"serviceMonitor": {"enabled": True}}
    without = render(replace(EMBEDDED, values={**EMBEDDED.values, **monitored}, apis=PROMETHEUS))
    assert not [each for each in of_kind(without, "ServiceMonitor") if each["metadata"]["name"] == NAME]

    manifests = render(PRODUCTION)
    [monitor] = [each for each in of_kind(manifests, "ServiceMonitor") if each["metadata"]["name"] == NAME]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    selected = [
        each
        for each in of_kind(manifests, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    [endpoint] = monitor["spec"]["endpoints"]
    assert [endpoint["port"] in {port["name"] for port in each["spec"]["ports"]} for each in selected].count(True) == 1
    assert endpoint["scheme"] == "https"
    assert endpoint["authorization"]["credentials"] == {"name": "podlane-viewer", "key": "token"}
    assert endpoint["tlsConfig"] == {
        "serverName": f"{NAME}.{NAMESPACE}.svc", "ca": {"secret": {"name": "rest-ca", "key": "ca.crt"}}
    }  # fmt: skip


def test_of_the_cluster_it_may_ask_about_tokens_alone() -> None:
    manifests = own(PRODUCTION)
    role, binding = the(manifests, "ClusterRole"), the(manifests, "ClusterRoleBinding")
    assert role["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = pod_of(manifests)["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    assert not list(of_kind(manifests, "Role"))


def test_values_say_who_reaches_it_and_whom_it_reaches() -> None:
    def rules(case: Values) -> tuple[dict[str, Any], list[int]]:
        spec = the(own(case), "NetworkPolicy")["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        ingress = {rule["ports"][0]["port"]: rule.get("from") for rule in spec["ingress"]}
        return ingress, sorted({port["port"] for rule in spec["egress"] for port in rule["ports"]})

    assert rules(EMBEDDED) == ({"https": None, "agents": None}, [53, 443, 5432, 6443])
    assert rules(PRODUCTION) == ({"https": [{"namespaceSelector": {}}], "agents": None}, [53, 5433, 9092])
    assert not list(of_kind(own(Values({**EMBEDDED.values, "networkPolicy": {"enabled": False}})), "NetworkPolicy"))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"tls": {"secretName": ""}}, "/controlPlane/tls/secretName"),
        ({"replicas": 2}, "SQLite has one process"),
        ({"autoscaling": {"enabled": True}}, "controlPlane.autoscaling: SQLite has one process"),
        ({"autoscaling": {"enabled": True, "minReplicas": 0}}, "minReplicas"),
        ({"database": {"secretName": "postgresql"}}, "controlPlane.ca.secretName is needed"),
        ({"reviewers": {"thisCluster": "east"}}, "/controlPlane/reviewers/thisCluster"),
        ({"environment": {"PODLANE_AGENT_NODE": "a"}}, "PODLANE_AGENT_NODE"),
        ({"state": "a"}, "state"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmError, match=complaint):
        render(Values({"controlPlane": {**EMBEDDED.values["controlPlane"], **values}}))


# --- agents ------------------------------------------------------------------------------------------------------------


def agents_pod(case: Values) -> dict[str, Any]:
    spec = the(render(case), "DaemonSet")["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def test_agents_know_the_control_plane_and_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = agents_pod(AGENT)
    (container,) = spec["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "n1"))
    settings = agent_settings.load_settings({})
    fleet = settings.fleet
    assert fleet is not None
    assert settings.control_plane == AGENT.values["agent"]["controlPlane"]["address"]
    assert (settings.cluster, settings.node) == ("shop/east", "n1")
    token, ca = settings.service_account_token, settings.control_plane_ca
    assert token is not None
    assert ca is not None
    assert token.parent == ca.parent
    assert mounted(spec, str(token.parent))["projected"]["sources"] == [
        {"serviceAccountToken": {"audience": AUDIENCE, "path": token.name, "expirationSeconds": 3600}},
        {"configMap": {"name": "fleet-ca", "items": [{"key": "ca.crt", "path": ca.name}]}},
    ]
    assert mounted(spec, str(settings.data))["hostPath"]["path"] == str(settings.data)


def test_the_ca_of_agents_may_be_in_a_secret_whose_key_they_do_not_see() -> None:
    plane = {**AGENT.values["agent"]["controlPlane"], "ca": {"secret": "agents-ca", "key": "tls.crt"}}
    spec = agents_pod(Values({"agent": {"enabled": True, "controlPlane": plane}}))
    _, source = mounted(spec, "/etc/podlane/control-plane")["projected"]["sources"]
    assert source == {"secret": {"name": "agents-ca", "items": [{"key": "tls.crt", "path": "ca.crt"}]}}


def test_agents_reach_the_control_plane_and_little_else() -> None:
    (policy,) = (m for m in of_kind(render(AGENT), "NetworkPolicy") if m["metadata"]["name"] == "podlane-agent")
    assert sorted({p["port"] for rule in policy["spec"]["egress"] for p in rule["ports"]}) == [
        53,
        443,
        6443,
        15181,
        15443,
    ]
    labels = the(render(AGENT), "DaemonSet")["spec"]["template"]["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels


def test_without_a_control_plane_agents_keep_nothing_on_disks() -> None:
    assert "/var/lib/podlane" not in str(agents_pod(Values({"agent": {"enabled": True}})))


def test_what_agents_kept_goes_with_them() -> None:
    spec = agents_pod(AGENT_CLEANUP)
    cleanup, forget = spec["initContainers"]
    assert cleanup["args"] == ["agent", "--cleanup"]
    assert forget["command"] == ["find", "/var/lib/podlane/agent", "-mindepth", "1", "-delete"]
    (mount,) = forget["volumeMounts"]
    (volume,) = (v for v in spec["volumes"] if v["name"] == mount["name"])
    assert (mount["mountPath"], volume["hostPath"]["path"]) == ("/var/lib/podlane/agent", "/var/lib/podlane/agent")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"cluster": ""}, "agent.controlPlane.cluster is needed"),
        ({"ca": {}}, "agent.controlPlane.ca is needed"),
        ({"address": "fleet.example.com"}, "/agent/controlPlane/address"),
        ({"address": "https://fleet.example.com:15181"}, "/agent/controlPlane/address"),
        ({"cluster": "shop/east/1"}, "/agent/controlPlane/cluster"),
    ],
)
def test_wrong_values_of_agents_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmError, match=complaint):
        render(
            Values({"agent": {"enabled": True, "controlPlane": {**AGENT.values["agent"]["controlPlane"], **values}}})
        )
