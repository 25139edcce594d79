"""AdmissionReviews in and out, as an API server sends and takes them; and whatever else anybody might send."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from admission_reviews import UID, answer, changed, no_policies, patched, review
from hypothesis import given, settings
from hypothesis import strategies as st
from injected_pods import LIMITS, NAMES, SHARED, USUAL, WITH_SECRET, container, injected, names, pod

from injector.errors import SharedPolicyError
from injector.pod.admission import mutate, validate
from injector.pod.defaults import InjectionDefaults
from tests.documents import places


@pytest.mark.parametrize("defaults", [USUAL, WITH_SECRET], ids=["usual", "other"])
def test_a_pod_is_mutated_and_then_valid(defaults: InjectionDefaults) -> None:
    given = pod("app", "log")
    response = answer(mutate, review(given), defaults)
    assert response["uid"] == UID
    after = patched(given, response)
    assert after == injected(given, defaults)
    assert answer(validate, review(after), defaults) == {"uid": UID, "allowed": True}
    assert answer(mutate, review(after), defaults) == {"uid": UID, "allowed": True}, "the second call changes nothing"


def test_a_dry_run_is_answered_like_any_other() -> None:
    assert answer(mutate, review(pod(), dryRun=True)) == answer(mutate, review(pod()))


@pytest.mark.parametrize("webhook", [mutate, validate])
def test_refusals_say_what_is_wrong_and_what_to_do(webhook: Callable[..., dict[str, Any]]) -> None:
    wrong = pod(annotations={"podlane.io/egress-bandwidth": "10X", "podlane.io/loglevel": "info"})
    response = answer(webhook, review(wrong))
    assert (response["uid"], response["allowed"]) == (UID, False)
    assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")
    message = response["status"]["message"]
    assert "podlane.io/egress-bandwidth: '10X' is not a Kubernetes quantity. Write one such as 10M" in message
    assert "podlane.io/loglevel: There is no such annotation. Did you mean podlane.io/log-level?" in message


@pytest.mark.parametrize("webhook", [mutate, validate])
def test_a_skip_is_a_warning_only_where_it_surprises(webhook: Callable[..., dict[str, Any]]) -> None:
    hosted = answer(webhook, review(pod(hostNetwork=True)))
    assert hosted["warnings"] == [
        "podlane: This Pod is not held to limits. It uses its node's network, and limits there would hold the whole node."
    ]
    assert "patch" not in hosted
    assert answer(webhook, review(pod(labels={"podlane.io/inject": "false"}))) == {"uid": UID, "allowed": True}


def test_long_warnings_are_cut_where_the_api_server_would() -> None:
    def unreachable(namespace: str, name: str) -> str | None:
        raise SharedPolicyError(f"{namespace}/{name} cannot be read:\n" + "x" * 500)

    (warning,) = answer(mutate, review(pod(annotations=SHARED)), shared=unreachable)["warnings"]
    assert warning.startswith("podlane: ConfigMap lanes was not checked: shop/lanes cannot be read: xxx")
    assert warning.endswith("...")


@pytest.mark.parametrize("webhook", [mutate, validate])
@pytest.mark.parametrize(
    "given",
    [
        pod(annotations={"podlane.io/" + "x" * 100_000: "", **LIMITS}),
        pod(annotations={f"podlane.io/{'x' * 5000}-{i}": "" for i in range(1000)}),
        pod(annotations={"podlane.io/egress-bandwidth": "x" * 100_000}),
        pod(annotations={"podlane.io/egress-bandwidth": ["x"] * 100_000}),  # type: ignore[dict-item]
        pod(annotations={"podlane.io/policy": "x" * 100_000}),
        pod(annotations={"podlane.io/mesh": "x" * 100_000, **LIMITS}),
        pod(annotations={"podlane.io/default-class": "x" * 100_000, **LIMITS}),
        pod(labels={"podlane.io/inject": "x" * 100_000}),
        pod(containers=[{"name": "podlane"}] * 10_000),
        pod(annotations={**LIMITS, "kubernetes.io/egress-bandwidth": "x" * 100_000}),
        pod(containers=[{"name": "y" * 100_000, "ports": [{"containerPort": 15109}] * 1000}]),
    ],
    ids=map(str, range(11)),
)
def test_answers_stay_short_whatever_a_pod_has(webhook: Callable[..., dict[str, Any]], given: Any) -> None:
    response = webhook(review(given), InjectionDefaults(), lambda _namespace, _name: None)["response"]
    response.pop("patch", None)
    assert len(json.dumps(response)) < 20_000


def test_both_webhooks_warn_of_a_port_that_is_podlanes() -> None:
    taken = pod("app")
    taken["spec"]["containers"][0]["ports"] = [{"containerPort": 15101}]
    mutated = answer(mutate, review(taken))
    assert "uses port 15101" in mutated["warnings"][0]
    assert answer(validate, review(patched(taken, mutated)))["warnings"] == mutated["warnings"]


def _without(key: str, name: str) -> Callable[[dict[str, Any]], None]:
    def take(given: dict[str, Any]) -> None:
        given["spec"][key] = [item for item in given["spec"][key] if item["name"] != name]

    return take


def _powerless(given: dict[str, Any]) -> None:
    container(given)["securityContext"]["capabilities"] = {"drop": ["ALL"]}


def _unmounted(given: dict[str, Any]) -> None:
    mounts = container(given)["volumeMounts"]
    container(given)["volumeMounts"] = [mount for mount in mounts if mount["name"] != "podlane-pod"]


def _without_status(given: dict[str, Any]) -> None:
    del given["metadata"]["annotations"]["podlane.io/status"]


LOST: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "container": (_without("initContainers", "podlane"), "came out of admission without container podlane"),
    "volume": (_without("volumes", "podlane-pod"), "without volume podlane-pod"),
    "mount": (_unmounted, "without volume podlane-pod in container podlane"),
    "capability": (_powerless, "took the capability NET_ADMIN from container podlane"),
    "status": (_without_status, "no annotation podlane.io/status"),
}


@pytest.mark.parametrize(("lose", "words"), LOST.values(), ids=LOST)
def test_validation_refuses_what_came_out_unable_to_hold_limits(
    lose: Callable[[dict[str, Any]], None], words: str
) -> None:
    broken = injected(pod())
    lose(broken)
    response = answer(validate, review(broken))
    assert response["allowed"] is False
    assert words in response["status"]["message"]
    assert 'podlane.io/inject to "false"' in response["status"]["message"]


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Set a field of the container; None removes it."""

    def change(given: dict[str, Any]) -> None:
        inner: Any = container(given)
        for step in path[:-1]:
            inner = inner[step]
        if to is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to

    return change


def _add(key: str, item: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda given: container(given).setdefault(key, []).append(item)


def _another_volume(name: str, **source: Any) -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        kept = [volume for volume in given["spec"]["volumes"] if volume["name"] != name]
        given["spec"]["volumes"] = [*kept, {"name": name, **source}]

    return change


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "image": (_set("image", to="evil/podlane:test"), "image"),
    "command": (_set("command", to=["sleep", "inf"]), "command"),
    "arguments": (_set("args", to=["--total", "100Gbit"]), "args"),
    "no startup probe": (_set("startupProbe", to=None), "startupProbe"),
    "no liveness probe": (_set("livenessProbe", to=None), "livenessProbe"),
    "another startup probe": (_set("startupProbe", "exec", "command", to=["true"]), "startupProbe"),
    "a readiness probe": (_set("readinessProbe", to={"exec": {"command": ["tc"]}}), "readinessProbe"),
    "a hook": (_set("lifecycle", to={"postStart": {"exec": {"command": ["tc"]}}}), "lifecycle"),
    "privileged": (_set("securityContext", "privileged", to=True), "securityContext.privileged"),
    "another user": (_set("securityContext", "runAsUser", to=1000), "securityContext.runAsUser"),
    "a writable root": (
        _set("securityContext", "readOnlyRootFilesystem", to=False),
        "securityContext.readOnlyRootFile",
    ),
    "a capability": (_set("securityContext", "capabilities", "add", to=["NET_ADMIN", "CAP_SYS_ADMIN"]), "SYS_ADMIN"),
    "all capabilities": (_set("securityContext", "capabilities", "add", to=["NET_ADMIN", "ALL"]), "capability ALL"),
    "capabilities kept": (_set("securityContext", "capabilities", "drop", to=[]), "capabilities.drop"),
    "a setting": (_add("env", {"name": "PODLANE_EXCLUDE_OUTBOUND_CIDRS", "value": "0.0.0.0/0"}), "EXCLUDE_OUTBOUND"),
    "a setting from elsewhere": (_add("env", {"name": "PODLANE_TOTAL", "valueFrom": {}}), "env PODLANE_TOTAL"),
    "settings from elsewhere": (_set("envFrom", to=[{"configMapRef": {"name": "x"}}]), "envFrom"),
    "a library": (_add("env", {"name": "LD_PRELOAD", "value": "/x.so"}), "env LD_PRELOAD"),
    "a module": (_add("env", {"name": "PYTHONPATH", "value": "/x"}), "env PYTHONPATH"),
    "a mount": (_add("volumeMounts", {"name": "x", "mountPath": "/usr/lib/python3"}), "volumeMount /usr/lib/python3"),
    "a hidden mount": (_add("volumeMounts", {"name": "x", "mountPath": "/run/secrets/../../usr"}), "volumeMount /run"),
    "mounts in other places": (_set("volumeMounts", 0, "mountPath", to="/elsewhere"), "volumeMount /etc/podlane/pod"),
    "an ordinary init container": (_set("restartPolicy", to=None), "restartPolicy"),
    "other annotations": (_another_volume("podlane-pod", configMap={"name": "mine"}), "volume podlane-pod"),
    "a folder of the node": (_another_volume("podlane-run", hostPath={"path": "/run"}), "volume podlane-run"),
}


@pytest.mark.parametrize(("tamper", "words"), TAMPERED.values(), ids=TAMPERED)
def test_what_was_tampered_with_is_refused_and_mended(tamper: Callable[[dict[str, Any]], None], words: str) -> None:
    right = injected(pod())
    wrong = copy.deepcopy(right)
    tamper(wrong)
    response = answer(validate, review(wrong))
    assert response["allowed"] is False
    assert words in response["status"]["message"]
    mended = patched(wrong, answer(mutate, review(wrong)))
    assert container(mended) == container(right)
    assert answer(validate, review(mended))["allowed"]


LEGITIMATE: dict[str, Callable[[dict[str, Any]], None]] = {
    "another version": _set("image", to="podlane@sha256:0123"),
    "resources": _set("resources", to={"requests": {"cpu": "1"}}),
    "pull policy": _set("imagePullPolicy", to="Always"),
    "defaults of probes": _set("startupProbe", "successThreshold", to=1),
    "a default of the message": _set("terminationMessagePath", to="/dev/termination-log"),
    "SELinux": _set("securityContext", "seLinuxOptions", to={"level": "s0:c1"}),
    "an environment": _add("env", {"name": "HTTPS_PROXY", "value": "http://proxy"}),
    "a log level": _add("env", {"name": "PODLANE_LOG_LEVEL", "value": "debug"}),
    "credentials": _add("volumeMounts", {"name": "token", "mountPath": "/var/run/secrets/eks.amazonaws.com/x"}),
    "certificates": _add("volumeMounts", {"name": "ca", "mountPath": "/etc/ssl/certs/ca.crt", "subPath": "ca"}),
    "empty lists": _set("args", to=[]),
    "a default mode": lambda given: given["spec"]["volumes"][0]["downwardAPI"].update(defaultMode=420),
}


@pytest.mark.parametrize("change", LEGITIMATE.values(), ids=LEGITIMATE)
def test_what_others_change_for_good_reasons_stays(change: Callable[[dict[str, Any]], None]) -> None:
    given = injected(pod())
    change(given)
    assert answer(validate, review(given))["allowed"]
    assert "patch" not in answer(mutate, review(given))


def test_what_0_2_0_injects_is_let_in_during_an_upgrade() -> None:
    """Of two injectors behind one Service, the old one may change a Pod that the new one then validates."""
    given = injected(pod())
    container(given)["image"] = "podlane:0.2.0"
    container(given)["startupProbe"] = {
        "exec": {"command": ["podlane", "ready"]}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 120,
    }  # fmt: skip
    container(given)["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]
    assert answer(validate, review(given))["allowed"]
    container(given)["livenessProbe"]["exec"] = {"command": ["podlane", "ready"]}
    assert not answer(validate, review(given))["allowed"]


IMAGE = "podlane.io/image"
CHOICE = InjectionDefaults(image="podlane:test", trusted_images=("registry.example.com:5000/next/podlane", "podlane"))


def choosing(image: str) -> dict[str, Any]:
    chosen = pod()
    chosen["metadata"]["annotations"][IMAGE] = image
    return chosen


@pytest.mark.parametrize(
    "image",
    [
        "registry.example.com:5000/next/podlane:0.3.0-rc1",
        "registry.example.com:5000/next/podlane",
        f"registry.example.com:5000/next/podlane@sha256:{'0' * 64}",
        f"podlane:1@sha256:{'0' * 64}",
    ],
)
def test_a_pod_may_choose_an_image_of_a_trusted_repository(image: str) -> None:
    given = choosing(image)
    response = mutate(review(given), CHOICE, no_policies)["response"]
    made = patched(given, response)
    assert container(made)["image"] == image
    assert validate(review(made), CHOICE, no_policies)["response"] == {"allowed": True, "uid": response["uid"]}
    assert "patch" not in mutate(review(made), CHOICE, no_policies)["response"]
    container(made)["image"] = "evil/podlane:1"
    assert "image of container podlane" in validate(review(made), CHOICE, no_policies)["response"]["status"]["message"]
    assert container(patched(made, mutate(review(made), CHOICE, no_policies)["response"]))["image"] == image


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("evil/podlane:1", "evil/podlane"),
        ("registry.example.com:5000/next/podlane/evil:1", "registry.example.com:5000/next/podlane/evil"),
        ("registry.example.com/next/podlane:5000", "registry.example.com/next/podlane"),
        ("evil.example.com/registry.example.com:5000/next/podlane:1", "evil.example.com/registry.example.com:5000/next/podlane"),
        ("docker.io/library/podlane:1", "docker.io/library/podlane"),
        ("PODLANE:1", "PODLANE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("webhook", [mutate, validate])
def test_an_image_of_another_repository_is_refused_with_the_remedy(webhook: Any, image: str, repository: str) -> None:
    message = webhook(review(choosing(image)), CHOICE, no_policies)["response"]["status"]["message"]
    assert message == (
        f"{IMAGE}: Pods may not choose images of {repository}. Choose one of registry.example.com:5000/next/podlane, "
        "podlane, leave the annotation out, or have your cluster's administrator add the repository to the injector's "
        "trusted_images (sidecar.trustedImages)."
    )


def test_without_trusted_repositories_no_pod_chooses_not_even_a_tag() -> None:
    message = answer(mutate, review(choosing("podlane:other")))["status"]["message"]
    assert "Pods may not choose images of podlane. Leave the annotation out, or" in message


@pytest.mark.parametrize("image", ["", " ", "a b", "podlane@evil.example.com:5000", "podlane:ä", "-x", "x" * 501])
def test_what_is_no_image_is_refused(image: str) -> None:
    response = mutate(review(choosing(image)), CHOICE, no_policies)["response"]
    assert "is not an image. Write its repository" in response["status"]["message"]


def test_another_image_waits_for_a_new_pod() -> None:
    before = injected(pod())
    response = validate(review(changed(before, image="podlane:other"), "UPDATE", before), CHOICE, no_policies)[
        "response"
    ]
    assert response["warnings"] == [f"podlane: Not in force before the Pod is created again: {IMAGE}."]


def test_the_status_says_which_revision_injected() -> None:
    default, canary = (
        InjectionDefaults(image="podlane:test"),
        InjectionDefaults(image="podlane:test", revision="canary"),
    )

    def status(given: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(given["metadata"]["annotations"]["podlane.io/status"])
        return found

    first = patched(pod(), mutate(review(pod()), canary, no_policies)["response"])
    assert status(first)["revision"] == "canary"
    assert "patch" not in mutate(review(first), canary, no_policies)["response"]
    again = patched(first, mutate(review(first), default, no_policies)["response"])
    assert "revision" not in status(again)
    assert [c["name"] for c in again["spec"]["initContainers"]].count("podlane") == 1


def test_images_of_a_mirror_can_be_trusted() -> None:
    mirrored = injected(pod())
    container(mirrored)["image"] = "mirror.example.com:5000/hub/podlane:test"
    assert not answer(validate, review(mirrored))["allowed"]
    trusting = InjectionDefaults(image="podlane:test", trusted_images=("mirror.example.com:5000/hub/podlane",))
    for webhook in (validate, mutate):
        response = webhook(review(mirrored), trusting, no_policies)["response"]
        assert response["allowed"]
        assert "patch" not in response


def test_validation_refuses_a_pod_that_mutation_never_saw() -> None:
    message = answer(validate, review(pod()))["status"]["message"]
    assert "container podlane, volume podlane-pod, volume podlane-run" in message
    assert "mutating webhook was not reached" in message


# --- shared policies ---------------------------------------------------------------------------------------------------


def test_shared_policies_are_asked_for_in_the_namespace_of_the_request() -> None:
    asked = []

    def shared(namespace: str, name: str) -> str | None:
        asked.append((namespace, name))
        return "total: 10Mbit"

    given = pod(annotations=SHARED)
    assert "podlane-policy" in names(patched(given, answer(mutate, review(given), shared=shared)), "volumes")
    assert asked == [("shop", "lanes")]


# --- anything else -----------------------------------------------------------------------------------------------------

MALFORMED: dict[str, Any] = {
    "null": None,
    "list": [],
    "text": "AdmissionReview",
    "empty": {},
    "no request": {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"},
    "old version": {**review(pod()), "apiVersion": "admission.k8s.io/v1beta1"},
    "no uid": review(pod(), uid=None),
    "empty uid": review(pod(), uid=""),
    "no object": review(None),
    "no spec": review({"metadata": {}}),
    "spec that is none": review({"spec": []}),
}


@pytest.mark.parametrize("webhook", [mutate, validate])
@pytest.mark.parametrize("document", MALFORMED.values(), ids=MALFORMED)
def test_malformed_reviews_are_refused(webhook: Callable[..., dict[str, Any]], document: Any) -> None:
    response = answer(webhook, document)
    assert (response["allowed"], response["status"]["reason"]) == (False, "BadRequest")
    assert "Send what an API server sends" in response["status"]["message"]


_SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_WORDS = st.sampled_from(
    ["metadata", "spec", "name", "annotations", "containers", "podlane", "podlane-pod", "podlane.io/status", "uid",
     "podlane.io/egress-bandwidth", "podlane.io/policy", "podlane.io/inject", "request", "object", "restartPolicy"]
)  # fmt: skip
_JSON = st.recursive(
    _SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.text(max_size=4), inner, max_size=4),
)


def any_policy(namespace: str, name: str) -> str | None:
    return {"a": None, "b": "total: 1"}.get(name[:1], "total: 10Mbit" if namespace else None)


@given(document=_JSON)
@settings(max_examples=100)
def test_any_json_has_an_answer(document: Any) -> None:
    for webhook in (mutate, validate):
        answer(webhook, document, shared=any_policy)
        answer(webhook, review(document), shared=any_policy)
        answer(webhook, review({"metadata": document, "spec": document}), shared=any_policy)


_OTHER = (None, True, 0, -1, 2**70, 1.5, "", "x", "podlane", [], [None], [[]], {}, {"name": "podlane"}, [{"name": 1}])


def test_500_mutilated_reviews_have_an_answer() -> None:
    chance = random.Random(20261125)
    full = pod("app", "istio-proxy", init=("istio-init",), annotations={**NAMES, **SHARED}, restartPolicy="Never")
    whole = [review(g) for g in (pod(), full, injected(pod()), injected(pod(volumes=[]), WITH_SECRET))]
    verdicts = set()
    for _ in range(500):
        document = copy.deepcopy(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            *way, last = chance.choice([way for way in places(document) if way])
            spot: Any = document
            for key in way:
                spot = spot[key]
            if chance.random() < 0.3:
                del spot[last]
            else:
                spot[last] = copy.deepcopy(chance.choice(_OTHER))
        for webhook in (mutate, validate):
            response = answer(webhook, document, chance.choice([USUAL, WITH_SECRET]), any_policy)
            verdicts.add((webhook.__name__, response["allowed"], "patch" in response))
            if "patch" in response:
                patched(document["request"]["object"], response)
    assert len(verdicts) == 5, verdicts


def test_limits_of_a_pod_in_the_order_of_the_api() -> None:
    """A Pod whose annotations are all there are, so that the table of annotations and the injector agree."""
    everything = {
        **LIMITS,
        "podlane.io/exclude-outbound-ports": "25,9000-9100",
        "podlane.io/exclude-outbound-cidrs": "10.96.0.0/12",
        "podlane.io/on-failure": "closed",
        "podlane.io/detection-timeout": "500ms",
        "podlane.io/datapath": "step-aside",
        "podlane.io/log-level": "debug",
        "podlane.io/cpu-request": "50m",
        "podlane.io/memory-limit": "128Mi",
    }
    given = pod(annotations=everything)
    assert answer(validate, review(patched(given, answer(mutate, review(given))))) == {"uid": UID, "allowed": True}
