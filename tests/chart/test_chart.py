"""The chart: what Helm makes of it is accepted by Kubernetes, means what the values say, and asks for no more than it needs."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from asking import ANY, about_pods, about_workloads, selects, webhook_configurations, webhooks_for
from rendering import CHART, NAMESPACE, ROOT, HelmError, Values, helm, manifests_of, of_kind, render, template, the
from schemas import KUBERNETES, problems
from value_sets import AUTHORITY, VALUE_SETS

from injector.pod.defaults import InjectionDefaults
from injector.server.config import InjectorSettings, load_settings
from podlane.main import VERBS
from traffic_policy.pod.annotations import KUBERNETES_EGRESS, KUBERNETES_INGRESS, PREFIX

SETS = pytest.mark.parametrize("case", VALUE_SETS.values(), ids=VALUE_SETS.keys())


def injector_container(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (container,) = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def settings_of(manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> InjectorSettings:
    """The injector's settings as it reads them from the Deployment's variables. Raises ConfigError."""
    for variable in injector_container(manifests)["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    return load_settings({})


# --- what Kubernetes says ----------------------------------------------------------------------------------------------


@SETS
def test_passes_helm_lint(case: Values) -> None:
    text = yaml.safe_dump(dict(case.values))
    said = helm("lint", "--strict", str(CHART), "--values", "-", "--kube-version", case.kubernetes, stdin=text)
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.mark.usefixtures("_schemas")
@pytest.mark.parametrize("version", KUBERNETES)
@SETS
def test_kubernetes_accepts_every_manifest(case: Values, version: str) -> None:
    found = [problem for manifest in render(case) for problem in problems(manifest, version)]
    assert found == []


@pytest.mark.usefixtures("_schemas")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"replicaz": 2}, "'replicaz' was unexpected", id="unknown field"),
        pytest.param({"replicas": "2"}, "'2' is not of type 'integer'", id="wrong type"),
        pytest.param({"selector": None}, "None is not of type 'object'", id="null"),
    ],
)
def test_the_schemas_would_find_mistakes(change: dict[str, Any], complaint: str) -> None:
    deployment = the(render(VALUE_SETS["defaults"]), "Deployment")
    deployment["spec"] |= change
    assert any(complaint in problem for problem in problems(deployment, KUBERNETES[0]))


@SETS
def test_the_same_values_give_the_same_manifests(case: Values) -> None:
    assert manifests_of(template(yaml.safe_dump(dict(case.values)), case.apis, case.kubernetes)) == render(case)


@SETS
def test_names_are_unique_and_short_enough(case: Values) -> None:
    manifests = render(case)
    names = [(m["apiVersion"], m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for *_, name in names)


# --- who is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "on_namespace", "on_pod", "asked"),
    [
        pytest.param("shop", "enabled", None, True, id="namespace opted in"),
        pytest.param("shop", "enabled", "true", True, id="both opted in: asked once"),
        pytest.param("shop", "enabled", "false", False, id="the Pod opted out"),
        pytest.param("shop", None, None, False, id="nobody said anything"),
        pytest.param("shop", None, "true", True, id="the Pod opted in"),
        pytest.param("shop", None, "false", False, id="the Pod opted out of nothing"),
        pytest.param("shop", "disabled", None, False, id="another value of the namespace's label"),
        pytest.param("shop", "disabled", "true", True, id="the Pod wins over its namespace"),
        pytest.param("kube-system", "enabled", "true", False, id="kube-system, whatever labels say"),
        pytest.param("kube-node-lease", "enabled", None, False, id="kube-node-lease"),
        pytest.param("kube-public", None, "true", False, id="kube-public"),
        pytest.param("local-path-storage", "enabled", None, False, id="local-path-storage"),
        pytest.param(NAMESPACE, "enabled", "true", False, id="the injector's own namespace"),
    ],
)
def test_labels_decide_who_is_asked(namespace: str, on_namespace: str | None, on_pod: str | None, asked: bool) -> None:
    labels = {"kubernetes.io/metadata.name": namespace}
    if on_namespace:
        labels["podlane.io/inject"] = on_namespace
    pod_labels = {"podlane.io/inject": on_pod} if on_pod else {}
    for configuration in webhook_configurations(render(VALUE_SETS["defaults"])):
        calls = [
            webhook["name"]
            for webhook in webhooks_for(configuration, "CREATE")
            if selects(webhook["namespaceSelector"], labels) and selects(webhook.get("objectSelector", ANY), pod_labels)
        ]
        assert len(calls) == asked, configuration["kind"]


@pytest.mark.parametrize("on_namespace", [None, "enabled", "disabled"])
@pytest.mark.parametrize("on_pod", [None, "true", "false"])
def test_where_limits_are_enforced_one_webhook_is_asked_about_every_pod(
    on_namespace: str | None, on_pod: str | None
) -> None:
    labels = {"kubernetes.io/metadata.name": "shop", "podlane.io/enforce": "true", "podlane.io/inject": on_namespace}
    for configuration, path in zip(
        webhook_configurations(render(VALUE_SETS["defaults"])), ("/mutate", "/validate"), strict=True
    ):
        calls = [
            webhook["clientConfig"]["service"]["path"]
            for webhook in webhooks_for(configuration, "CREATE")
            if selects(webhook["namespaceSelector"], {k: v for k, v in labels.items() if v})
            and selects(webhook.get("objectSelector", ANY), {"podlane.io/inject": on_pod} if on_pod else {})
        ]
        assert calls == [f"{path}/enforced"]


def test_the_release_s_namespace_is_excluded_even_if_no_other_is() -> None:
    for configuration in webhook_configurations(render(VALUE_SETS["as little as possible"])):
        for webhook in configuration["webhooks"]:
            *_, excluded = webhook["namespaceSelector"]["matchExpressions"]
            assert excluded["values"] == [NAMESPACE]


@SETS
def test_webhooks_are_as_a_cluster_wants_them(case: Values) -> None:
    manifests = render(case)
    mutating, validating = webhook_configurations(manifests)
    service = the(manifests, "Service")
    for configuration, path in ((mutating, "/mutate"), (validating, "/validate")):
        for webhook in about_pods(configuration):
            assert webhook["sideEffects"] == "NoneOnDryRun", "a dry run writes no Event"
            assert webhook["admissionReviewVersions"] == ["v1"]
            assert webhook["matchPolicy"] == "Equivalent"
            (rule,) = webhook["rules"]
            assert rule == {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": rule["operations"],
                "resources": ["pods"],
                "scope": "Namespaced",
            }
            assert webhook["timeoutSeconds"] == case.values.get("webhook", {}).get("timeoutSeconds", 5)
            called = webhook["clientConfig"]["service"]
            ending = "/enforced" if webhook["name"].startswith("enforced.") else ""
            assert called.pop("path") == path + ending
            assert called == {"name": service["metadata"]["name"], "namespace": NAMESPACE, "port": 443}
            assert webhook.get("reinvocationPolicy") == ("IfNeeded" if configuration is mutating else None)
        creating = webhooks_for(configuration, "CREATE")
        policy = case.values.get("webhook", {}).get("failurePolicy", "Fail")
        assert [webhook["failurePolicy"] for webhook in creating] == [policy] * 3
    assert service["spec"]["ports"][0]["port"] == 443


@SETS
def test_changes_of_pods_are_looked_at_and_never_wait_for_an_injector(case: Values) -> None:
    mutating, validating = webhook_configurations(render(case))
    assert webhooks_for(mutating, "UPDATE") == []
    (webhook,) = webhooks_for(validating, "UPDATE")
    assert webhook["failurePolicy"] == "Ignore"
    assert "objectSelector" not in webhook, "what has a sidecar has it, whatever its labels say by now"
    read = set(re.findall(r'"(\S+\.io/[\w-]*)"', webhook["matchConditions"][1]["expression"]))
    assert read == {PREFIX, KUBERNETES_EGRESS, KUBERNETES_INGRESS}


@SETS
def test_templates_are_looked_at_and_no_workload_waits_for_an_injector(case: Values) -> None:
    mutating, validating = webhook_configurations(render(case))
    assert about_workloads(mutating) == []
    webhooks = {w["name"].partition(".")[0]: w for w in about_workloads(validating)}
    assert webhooks.keys() == {"namespace", "pod", "enforced"}
    asked: set[tuple[str, str]] = set()
    for who, webhook in webhooks.items():
        name = webhook["name"].replace(".workloads.", ".validate.")
        creating = next(w for w in webhooks_for(validating, "CREATE") if w["name"] == name)
        assert webhook["namespaceSelector"] == creating["namespaceSelector"], "where Pods are judged, and nowhere else"
        service = creating["clientConfig"]["service"]
        path = "/validate/workloads/enforced" if who == "enforced" else "/validate/workloads"
        assert webhook["clientConfig"] == creating["clientConfig"] | {"service": service | {"path": path}}
        assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Ignore", "None")
        assert "objectSelector" not in webhook, "labels of a template are not the object's"
        conditions = [condition["name"] for condition in webhook["matchConditions"]]
        of_pod = ["template-opts-in"]
        if case.values.get("revision"):
            of_pod.append("template-is-of-this-revision")
        elif case.values.get("otherRevisions"):
            of_pod.append("template-is-of-no-other-revision")
        assert conditions == ["no-controller-made-it", "template-is-new", *(of_pod if who == "pod" else [])]
        for rule in webhook["rules"]:
            assert (rule["apiVersions"], rule["operations"]) == (["v1"], ["CREATE", "UPDATE"])
            asked |= {(group, resource) for group in rule["apiGroups"] for resource in rule["resources"]}
    assert asked == {
        ("apps", "deployments"), ("apps", "statefulsets"), ("apps", "daemonsets"), ("batch", "jobs"), ("batch", "cronjobs"),
    }  # fmt: skip


def test_is_called_before_istio() -> None:
    """API servers call mutating webhooks in the order of their configurations' names."""
    mutating, _ = webhook_configurations(render(VALUE_SETS["defaults"]))
    assert mutating["metadata"]["name"] < "istio-revision-tag-default"
    assert mutating["metadata"]["name"] < "istio-sidecar-injector"


def test_ca_bundle_is_named_only_where_it_is_known() -> None:
    """An upgrade leaves alone what no manifest names: the injector and cert-manager write it into the cluster."""
    for name, case in VALUE_SETS.items():
        bundles = {
            w["clientConfig"].get("caBundle") for c in webhook_configurations(render(case)) for w in c["webhooks"]
        }
        assert (bundles == {None}) == (name != "a Secret of your own"), name
    own = webhook_configurations(render(VALUE_SETS["a Secret of your own"]))[0]["webhooks"][0]["clientConfig"]
    assert base64.b64decode(own["caBundle"]).decode() == AUTHORITY


def test_plain_manifests_have_no_hook_that_empties_the_webhooks() -> None:
    """What `helm template` writes may be piped into kubectl, which would apply hooks like anything else."""
    hooks = [m for m in render(VALUE_SETS["defaults"]) if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    assert {m["kind"] for m in hooks} == {"Pod"}
    assert {m["metadata"]["annotations"]["helm.sh/hook"] for m in hooks} == {"test"}


# --- what it may do ----------------------------------------------------------------------------------------------------


def rights(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """(namespace or *, resource, name or *, verb) of every rule."""
    for role in (*of_kind(manifests, "ClusterRole"), *of_kind(manifests, "Role")):
        for rule in role["rules"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", ["*"]):
                    for verb in rule["verbs"]:
                        yield role["metadata"].get("namespace", "*"), resource, name, verb


OWN_CERTIFICATES = {
    ("*", "mutatingwebhookconfigurations", "00-podlane-injector", "get"),
    ("*", "mutatingwebhookconfigurations", "00-podlane-injector", "patch"),
    ("*", "validatingwebhookconfigurations", "00-podlane-injector", "get"),
    ("*", "validatingwebhookconfigurations", "00-podlane-injector", "patch"),
    (NAMESPACE, "secrets", "podlane-injector-certificates", "get"),
    (NAMESPACE, "secrets", "podlane-injector-certificates", "update"),
    (NAMESPACE, "secrets", "podlane-injector-certificates", "patch"),
    (NAMESPACE, "secrets", "podlane-injector-certificates", "create"),
}
ANY_POLICY = {("*", "configmaps", "*", "get")}
ALWAYS = {
    ("*", "nodes", "*", "list"),
    ("*", "namespaces", "*", "get"),
    ("*", "replicasets", "*", "get"),
    *(("*", kind, "*", verb) for kind in ("trafficpolicies", "clustertrafficpolicies") for verb in ("list", "watch")),
    ("*", "events", "*", "create"),
    ("*", "events", "*", "patch"),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("defaults", OWN_CERTIFICATES | ANY_POLICY, id="defaults"),
        pytest.param("cert-manager is there", ANY_POLICY, id="cert-manager"),
        pytest.param("a Secret of your own", ANY_POLICY, id="a Secret of your own"),
        pytest.param("as little as possible", OWN_CERTIFICATES, id="no shared policies"),
        pytest.param(
            "policies in two namespaces",
            OWN_CERTIFICATES
            | {(ns, "configmaps", n, "get") for ns in ("shop", "search") for n in ("lanes", "batch-lanes")},
            id="policies in two namespaces",
        ),
    ],
)
def test_the_injector_s_rights_are_these_and_no_others(name: str, expected: set[tuple[str, str, str, str]]) -> None:
    manifests = render(VALUE_SETS[name])
    assert set(rights(manifests)) == expected | ALWAYS
    account = the(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    bindings = [*of_kind(manifests, "ClusterRoleBinding"), *of_kind(manifests, "RoleBinding")]
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    roles = {(m["kind"], m["metadata"]["name"]) for m in manifests if m["kind"] in ("ClusterRole", "Role")}
    assert {(b["roleRef"]["kind"], b["roleRef"]["name"]) for b in bindings} == roles


@SETS
def test_every_pod_of_ours_meets_the_restricted_standard(case: Values) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/; and no Pod writes to its root file system."""
    manifests = render(case)
    specs = [the(manifests, "Deployment")["spec"]["template"]["spec"], *(m["spec"] for m in of_kind(manifests, "Pod"))]
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all({"secret", "configMap", "downwardAPI"} & volume.keys() for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "requests" in container["resources"]


def test_the_image_s_user_is_the_chart_s() -> None:
    assert re.search(r"^USER 65532:65532$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


# --- what the injector makes of it -------------------------------------------------------------------------------------


@SETS
def test_the_injector_takes_the_settings(case: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(case)
    container = injector_container(manifests)
    settings = settings_of(manifests, monkeypatch)
    assert container["args"][0] in {verb.name for verb in VERBS}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (settings.port, settings.metrics_port) == (ports["https"], ports["metrics"])
    assert settings.image == container["image"]
    host = f"{the(manifests, 'Service')['metadata']['name']}.{NAMESPACE}.svc"
    assert host in settings.certificate_names(NAMESPACE)
    if settings.secret:
        assert settings.secret == the(manifests, "Secret")["metadata"]["name"]
        names = [c["metadata"]["name"] for c in webhook_configurations(manifests)]
        assert [settings.mutating_webhook, settings.validating_webhook] == names
    else:
        volume, mount = mounted(manifests, "certificates")
        assert str(settings.certificate) == f"{mount['mountPath']}/tls.crt"
        assert str(settings.key) == f"{mount['mountPath']}/tls.key"
        for certificate in of_kind(manifests, "Certificate"):
            if certificate["spec"]["secretName"] == volume["secret"]["secretName"]:
                assert host in certificate["spec"]["dnsNames"]
    needed = settings.linger.seconds + settings.grace.seconds
    assert needed <= the(manifests, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def mounted(manifests: list[dict[str, Any]], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume of the injector, and its place in the container."""
    (volume,) = (v for v in the(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"] if v["name"] == name)
    (mount,) = (m for m in injector_container(manifests)["volumeMounts"] if m["name"] == name)
    assert mount["readOnly"]
    return volume, mount


@pytest.mark.parametrize(
    ("name", "source", "names"),
    [
        ("API servers with certificates", {"configMap": {"name": "podlane-clients"}}, ("kube-apiserver", "spare")),
        ("API servers with certificates of cert-manager", {"secret": {"secretName": "podlane-clients"}}, ()),
    ],
)
def test_the_authority_of_clients_is_where_the_injector_looks_for_it(
    name: str, source: dict[str, dict[str, str]], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = VALUE_SETS[name]
    manifests = render(case)
    settings = settings_of(manifests, monkeypatch)
    volume, mount = mounted(manifests, "clients")
    ((kind, wanted),) = source.items()
    (item,) = volume[kind]["items"]
    assert wanted.items() <= volume[kind].items()
    assert item["key"] == case.values["webhook"]["clientCa"].get("key", "ca.crt")
    assert str(settings.client_ca) == f"{mount['mountPath']}/{item['path']}"
    assert settings.client_names == names


def test_by_default_everybody_who_reaches_the_injector_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(VALUE_SETS["defaults"])
    assert settings_of(manifests, monkeypatch).client_ca is None
    assert all("from" not in rule for rule in the(manifests, "NetworkPolicy")["spec"]["ingress"])


def test_values_say_from_where_the_injector_is_asked() -> None:
    def sources(name: str) -> dict[str, list[dict[str, Any]]]:
        rules = the(render(VALUE_SETS[name]), "NetworkPolicy")["spec"]["ingress"]
        return {rule["ports"][0]["port"]: rule.get("from") for rule in rules}

    found = sources("API servers with certificates")
    api_servers, helm_test = found["https"]
    assert (api_servers, found["metrics"]) == ({"ipBlock": {"cidr": "192.0.2.0/28"}}, None)
    (test,) = (
        p
        for p in of_kind(render(VALUE_SETS["API servers with certificates"]), "Pod")
        if "readiness" in p["metadata"]["name"]
    )
    assert helm_test["podSelector"]["matchLabels"].items() <= test["metadata"]["labels"].items()
    assert sources("API servers with certificates of cert-manager") == {"https": [{"podSelector": {}}], "metrics": None}


def test_injectors_count_as_available_when_nodes_have_heard_of_them() -> None:
    """Also while they are replaced: no old one ends before a new one has been ready for so long."""
    spec = the(render(VALUE_SETS["defaults"]), "Deployment")["spec"]
    assert spec["minReadySeconds"] >= 5
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert the(render(VALUE_SETS["everything at once"]), "Deployment")["spec"]["minReadySeconds"] == 0


def test_values_reach_the_sidecar(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(render(VALUE_SETS["everything at once"]), monkeypatch)
    defaults = settings.defaults()
    assert defaults.image == "registry.example.com:5000/net/podlane:1.2.3"
    assert defaults.image_pull_policy == "Always"
    assert defaults.image_pull_secrets == ("registry", "other")
    assert (defaults.cpu_request, defaults.cpu_limit) == ("0.1", "2")
    assert (defaults.memory_request, defaults.memory_limit) == (None, "1Gi")
    assert not defaults.bpf
    assert defaults.net_raw == "drop"
    assert dict(defaults.environment) == {
        "PODLANE_ADMIN_ADDRESS": "0.0.0.0",
        "PODLANE_ADMIN_PORT": "9901",
        "PODLANE_MAX_CONNECTIONS": "2000",
        "PODLANE_SILENT_PORTS": "25,3306",
    }
    assert settings.linger.seconds == 8


def test_defaults_are_the_injector_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One truth: what the chart says where nobody says anything is what the program does then."""
    settings = settings_of(render(VALUE_SETS["defaults"]), monkeypatch)
    own = InjectorSettings.model_fields
    for name in (
        "port",
        "metrics_port",
        "cpu_request",
        "cpu_limit",
        "memory_request",
        "memory_limit",
        "bpf",
        "net_raw",
    ):
        assert getattr(settings, name) == own[name].default, name
    assert settings.defaults().settings == InjectionDefaults().settings
    assert settings.tls_version == own["tls_version"].default
    assert (settings.log_format, settings.log_level) == (own["log_format"].default, own["log_level"].default)


def test_service_variables_cannot_be_taken_for_settings() -> None:
    """The Service podlane-injector would set PODLANE_INJECTOR_PORT to an URL in Pods of its namespace."""
    manifests = render(VALUE_SETS["defaults"])
    for spec in (
        the(manifests, "Deployment")["spec"]["template"]["spec"],
        *(m["spec"] for m in of_kind(manifests, "Pod")),
    ):
        assert spec["enableServiceLinks"] is False


def test_versions_are_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert injector_container(render(VALUE_SETS["defaults"]))["image"] == f"podlane:{project['version']}"
    assert chart["kubeVersion"] == f">={'.'.join(KUBERNETES[-1].removeprefix('v').split('.')[:2])}.0-0"


# --- values ------------------------------------------------------------------------------------------------------------


def test_every_value_is_in_the_schema_with_a_description() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(value: object, schema: Mapping[str, Any], path: str) -> None:
        if not isinstance(value, dict) or "properties" not in schema or path.endswith("/resources"):
            return
        assert schema["additionalProperties"] is False, path
        assert value.keys() == schema["properties"].keys() - {"global"}, path
        for key, inner in value.items():
            assert schema["properties"][key]["description"].endswith("."), f"{path}/{key}"
            compare(inner, schema["properties"][key], f"{path}/{key}")

    compare(values, schema, "")


@pytest.mark.parametrize(
    ("values", "place"),
    [
        pytest.param({"injektor": {}}, "injektor", id="unknown value"),
        pytest.param({"injector": {"replicas": 0}}, "/injector/replicas", id="no replica"),
        pytest.param({"injector": {"port": 443}}, "/injector/port", id="a port that takes a privilege"),
        pytest.param({"webhook": {"failurePolicy": "fail"}}, "/webhook/failurePolicy", id="failurePolicy"),
        pytest.param({"webhook": {"timeoutSeconds": 31}}, "/webhook/timeoutSeconds", id="longer than API servers wait"),
        pytest.param({"sidecar": {"native": "always"}}, "native", id="the form, which could be chosen up to 0.1"),
        pytest.param(
            {"sidecar": {"environment": {"HOME": "/"}}}, "'HOME' does not match", id="no setting of the sidecar"
        ),
        pytest.param(
            {"sidecar": {"adminPort": 0}}, "/sidecar/adminPort", id="no admin port, where readiness is asked for"
        ),
        pytest.param({"sidecar": {"adminAddress": "a,b"}}, "/sidecar/adminAddress", id="no address"),
        pytest.param({"sidecar": {"resources": {"limits": {"memory": "lots"}}}}, "limits/memory", id="no quantity"),
        pytest.param({"certificates": {"source": "secret"}}, "/certificates", id="a Secret without a name"),
        pytest.param(
            {"certificates": {"issuerRef": {"kind": "Issuer"}}}, "/certificates/issuerRef", id="a nameless issuer"
        ),
        pytest.param({"serviceAccount": {"create": False}}, "/serviceAccount", id="an account without a name"),
        pytest.param(
            {"webhook": {"clientCa": {"configMap": "a", "secret": "b"}}}, "/webhook/clientCa", id="two authorities"
        ),
        pytest.param({"webhook": {"clientCa": {"names": ["a,b"]}}}, "/webhook/clientCa/names/0", id="no name"),
        pytest.param(
            {"webhook": {"clientCa": {"names": ["a"]}}}, "Name the authority, too", id="names and no authority"
        ),
        pytest.param({"image": {"tag": "a b"}}, "/image/tag", id="no tag"),
        pytest.param({"tests": {"namespace": ""}}, "/tests/namespace", id="no namespace"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], place: str) -> None:
    with pytest.raises(HelmError, match=re.escape(place)):
        render(Values(values))


def test_a_test_in_an_excluded_namespace_is_refused() -> None:
    with pytest.raises(HelmError, match=r"tests\.namespace is kube-system, where nothing is injected"):
        render(Values({"tests": {"namespace": "kube-system"}}))


def test_too_old_a_kubernetes_is_refused() -> None:
    with pytest.raises(HelmError, match="kubeVersion"):
        render(Values({}, kubernetes="v1.26.0"))


# --- monitoring and notes ----------------------------------------------------------------------------------------------


def test_the_dashboard_is_rendered_as_it_is() -> None:
    """tests/unit/test_dashboard.py has what it must be."""
    manifest = the(render(VALUE_SETS["everything at once"]), "ConfigMap")
    assert manifest["data"]["podlane.json"] == (CHART / "dashboards/podlane.json").read_text()
    agents = the(render(Values({"dashboard": {"enabled": True}, "agent": {"enabled": True}})), "ConfigMap")
    assert agents["data"]["podlane-agent.json"] == (CHART / "dashboards/podlane-agent.json").read_text()
    plane = {"enabled": True, "tls": {"secretName": "rest-tls"}}
    planes = the(render(Values({"dashboard": {"enabled": True}, "controlPlane": plane})), "ConfigMap")
    expected = (CHART / "dashboards/podlane-control-plane.json").read_text()
    assert planes["data"]["podlane-control-plane.json"] == expected


def test_monitoring_selects_the_service() -> None:
    manifests = render(VALUE_SETS["everything at once"])
    service = the(manifests, "Service")
    monitor = the(manifests, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_monitoring_selects_the_agents_by_their_port_and_keeps_the_labels_of_pods() -> None:
    manifests = render(Values({"serviceMonitor": {"enabled": True}, "agent": {"enabled": True}}))
    template = the(manifests, "DaemonSet")["spec"]["template"]
    monitor = the(manifests, "PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert endpoint["honorLabels"]
    assert not list(of_kind(render(Values({"serviceMonitor": {"enabled": True}})), "PodMonitor"))


def test_selectors_meet_the_injector_s_pods_only() -> None:
    manifests = render(VALUE_SETS["everything at once"])
    deployment = the(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        the(manifests, "Service")["spec"]["selector"],
        the(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels
        for test_pod in of_kind(manifests, "Pod"):
            assert not selector.items() <= test_pod["metadata"]["labels"].items()
