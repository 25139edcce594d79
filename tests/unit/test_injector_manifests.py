"""Injection into manifests: what is not touched stays to the byte, and the way back leads to the start."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from injected_pods import LANES, LANES_BY_NAME, LIMITS, USUAL, WITH_SECRET, injected, names, uninjected
from manifest_samples import CRON_JOB, DEPLOYMENT, JSON_COMPACT, LIST, STATEFUL_SET, TEXTS

from injector.errors import ManifestError
from injector.manifests.edit import inject_text, uninject_text
from injector.manifests.yaml_tree import LOADER
from injector.pod.defaults import InjectionDefaults
from traffic_policy.pod.governed import governed

CLASSIC = (Path(__file__).parent.parent / "golden" / "manifests" / "classic-0.1.yaml").read_text()
"""DEPLOYMENT, as version 0.1 injected it with `--classic`."""
FORMS = pytest.mark.parametrize("defaults", [USUAL, WITH_SECRET], ids=["usual", "secret"])


def documents(text: str) -> list[Any]:
    return list(yaml.load_all(text, Loader=LOADER))


def template(document: dict[str, Any]) -> dict[str, Any]:
    found = document["spec"]["template"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("text", "workloads"), TEXTS.values(), ids=TEXTS)
@FORMS
def test_there_and_back(text: str, workloads: list[str], defaults: InjectionDefaults) -> None:
    result = inject_text(text, defaults)
    assert [outcome.place.partition(", ")[2] for outcome in result.outcomes] == workloads
    assert {outcome.action for outcome in result.outcomes} == {"injected."}
    if not text.startswith("{"):
        # Lines are only added, wherever each has its place of its own.
        gone = [line for line in difflib.ndiff(text.splitlines(), result.text.splitlines()) if line[0] == "-"]
        assert all("{" in line for line in gone), gone
    assert ("\r\n" in text) == ("\r\n" in result.text)
    assert not [line for line in result.text.split("\n")[:-1] if "\r\n" in text and not line.endswith("\r")]

    again = inject_text(result.text, defaults)
    assert again.text == result.text
    assert {outcome.action for outcome in again.outcomes} == {"has been injected already."}

    back = uninject_text(result.text)
    assert back.text == text
    assert {outcome.action for outcome in back.outcomes} == {"uninjected."}


@FORMS
def test_a_manifest_gets_what_the_api_server_would_get(defaults: InjectionDefaults) -> None:
    for text in (DEPLOYMENT, STATEFUL_SET):
        (before,), (after,) = documents(text), documents(inject_text(text, defaults).text)
        assert template(after) == injected(template(before), defaults)
        after["spec"]["template"] = template(before)
        assert after == before


@FORMS
def test_json_stays_json(defaults: InjectionDefaults) -> None:
    for text, _ in TEXTS.values():
        if text.startswith("{"):
            json.loads(inject_text(text, defaults).text)


def test_what_is_new_stands_where_it_belongs() -> None:
    with_init = DEPLOYMENT.replace(
        "      containers:", "      initContainers:\n        # first\n        - name: migrate\n      containers:"
    )
    text = inject_text(with_init, USUAL).text
    lines = text.splitlines()
    assert lines[lines.index("      initContainers:") + 1] == "        - name: podlane", (
        "before the comment of the first"
    )
    assert lines[lines.index("        # first") + 1] == "        - name: migrate"
    assert lines[lines.index("      annotations:") + 1].startswith('        podlane.io/status: \'{"version"')
    assert "          emptyDir: {}\n        - name: podlane-pod\n" in text
    assert text.endswith("\n      # the end\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "---\n---\n",
        "apiVersion: v1\nkind: ConfigMap\ndata: {a: 'b',   c: \"d\"}   # odd\n\n\n",
        "apiVersion: example.com/v1\nkind: Deployment\nspec: {template: {spec: {containers: []}}}\n",
        "kind: Pod\napiVersion: v1\n",
        "- just\n- a list\n",
        "just text",
        "&a [*a]",
    ],
    ids=["empty", "comment", "empty documents", "config map", "another group", "no spec", "list", "text", "loop"],
)
def test_without_workloads_every_byte_stays(text: str) -> None:
    for result in (inject_text(text, USUAL), uninject_text(text)):
        assert result.text == text
        assert not result.outcomes


def test_other_documents_stay_to_the_byte() -> None:
    odd = "a:   {b: [1,2 ,  3]}   # odd\nc: !!binary |\n  R0lGODlh\n? x\n: y\n"
    result = inject_text(f"{odd}---\n{DEPLOYMENT}---\n{odd}", USUAL)
    assert result.text.startswith(f"{odd}---\n")
    assert result.text.endswith(f"---\n{odd}")


def test_changed_annotations_make_the_injection_anew() -> None:
    once = inject_text(DEPLOYMENT, USUAL).text
    changed = DEPLOYMENT.replace('"50M"', '"60M"')
    anew = inject_text(once.replace('"50M"', '"60M"'), WITH_SECRET)
    assert documents(anew.text) == documents(inject_text(changed, WITH_SECRET).text)
    assert uninject_text(anew.text).text == changed


@pytest.mark.parametrize("text", [DEPLOYMENT, JSON_COMPACT, LIST], ids=["block", "JSON", "list"])
@FORMS
def test_from_any_form_to_any_other(text: str, defaults: InjectionDefaults) -> None:
    for first in (USUAL, WITH_SECRET):
        anew = inject_text(inject_text(text, first).text, defaults).text
        assert documents(anew) == documents(inject_text(text, defaults).text)
        assert uninject_text(anew).text == text


def test_the_classic_form_of_version_0_1_is_taken_out_and_replaced() -> None:
    assert uninject_text(CLASSIC).text == DEPLOYMENT
    anew = inject_text(CLASSIC, USUAL).text
    assert documents(anew) == documents(inject_text(DEPLOYMENT, USUAL).text)
    assert uninject_text(anew).text == DEPLOYMENT


def test_uninjecting_what_kubectl_wrote_gives_the_same_pod_back() -> None:
    """As after `kubectl get -o yaml`: other order, other style, and still only ours goes."""
    (deployment,) = documents(DEPLOYMENT)
    deployment["spec"]["template"] = injected(template(deployment), WITH_SECRET)
    text = yaml.safe_dump(deployment)
    (after,) = documents(uninject_text(text).text)
    assert template(after) == uninjected(template(deployment))
    assert names(template(after), "initContainers") == []
    assert names(template(after), "imagePullSecrets") == []


# --- who decides -------------------------------------------------------------------------------------------------------

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {%s}}\n---\n"


def _labelled(pod: str, label: str) -> str:
    return pod.replace(
        "metadata: {", f"metadata: {{labels: {{podlane.io/inject: {label}}}, " if label else "metadata: {"
    )


POD = "apiVersion: v1\nkind: Pod\nmetadata: {annotations: {podlane.io/egress-bandwidth: 1M}, name: p, namespace: shop}\nspec: {containers: [{name: a}]}\n"

DECISIONS = {
    "enabled": ("podlane.io/inject: enabled", "", "injected."),
    "disabled": ("podlane.io/inject: disabled", "", "left alone. The label podlane.io/inject of its namespace is not enabled."),
    "no label": ("team: a", "", "injected."),
    "disabled, but the Pod's wins": ("podlane.io/inject: disabled", '"true"', "injected."),
    "enabled, but the Pod's wins": ("podlane.io/inject: enabled", '"false"', 'left alone. Its label podlane.io/inject is "false".'),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "label", "action"), DECISIONS.values(), ids=DECISIONS)
def test_labels_decide(labels: str, label: str, action: str) -> None:
    (outcome,) = inject_text(NAMESPACE % labels + _labelled(POD, label), USUAL).outcomes
    assert outcome.action == action


def test_namespaces_decide_wherever_they_stand() -> None:
    late = f"{POD}---\n{NAMESPACE % 'podlane.io/inject: disabled'}"
    assert inject_text(late, USUAL).text == late
    other = late.replace("namespace: shop", "namespace: other")
    assert inject_text(other, USUAL).text != other


CONFIG_MAP = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lanes, namespace: shop}\ndata:\n  policy.yaml: |\n%s---\n"
)
SHARING = POD.replace("egress-bandwidth: 1M", "policy: lanes")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def test_shared_policies_come_from_the_manifest_or_by_option_or_stay_unchecked() -> None:
    inside = inject_text(CONFIG_MAP % _indented(LANES) + SHARING, USUAL)
    assert "--shared-policy" in inside.text
    assert not inside.outcomes[0].warnings
    assert not inject_text(SHARING, USUAL, LANES).outcomes[0].warnings
    unknown = inject_text(SHARING, USUAL)
    assert unknown.outcomes[0].warnings == (
        "ConfigMap lanes was not checked: it is not in the manifest. Give its policy by --policy-file.",
    )
    assert r"\"policy\":null" in unknown.text
    meshed = SHARING.replace("{name: a}", "{name: istio-proxy}")
    inwards = LANES_BY_NAME.replace("host:", "direction: inbound, host:")
    with pytest.raises(ManifestError, match="Istio"):
        inject_text(CONFIG_MAP % _indented(inwards) + meshed, USUAL)


POLICY = """\
apiVersion: podlane.io/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  total: 100Mbit
  classes: [{name: mail, rate: 10Mbit, match: [{port: [25]}]}]
---
"""
GUARD = """\
apiVersion: podlane.io/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: guard}
spec: {namespaceSelector: {matchLabels: {team: a}}, caps: {total: 20Mbit}}
---
"""
BARE = """\
apiVersion: v1
kind: Pod
metadata:
  name: web  # without a word about limits
  namespace: shop
  labels: {app: web}
spec:
  containers:
    - name: app
      image: app:1
"""


def said_by(text: str) -> tuple[Any, Any]:
    """What the sidecar of the last document will find, and the status."""
    annotations = documents(text)[-1]["metadata"]["annotations"]
    return governed(annotations).policy.to_document(), json.loads(annotations["podlane.io/status"])


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same file", "another file"])
def test_policies_among_the_files_mean_what_they_mean_to_the_webhook(elsewhere: bool) -> None:
    text, others = (BARE, [POLICY]) if elsewhere else (POLICY + BARE, [])
    result = inject_text(text, USUAL, others=others)
    policy, status = said_by(result.text)
    assert (policy["total"], [each["name"] for each in policy["classes"]]) == ("100Mbit", ["mail"])
    assert status["governed"] is True
    assert "name: web  # without a word about limits" in result.text
    assert inject_text(result.text, USUAL, others=others).text == result.text
    assert uninject_text(result.text).text == text
    less = result.text.replace("total: 100Mbit", "total: 50Mbit") if not elsewhere else result.text
    changed = inject_text(less, USUAL, others=[each.replace("100Mbit", "50Mbit") for each in others])
    assert said_by(changed.text)[0]["total"] == "50Mbit"
    assert uninject_text(changed.text).text == text.replace("total: 100Mbit", "total: 50Mbit")


def test_annotations_go_over_policies_of_files_and_caps_lower_both() -> None:
    labelled = NAMESPACE % "team: a" + "\n---\n"
    own = BARE.replace("  labels:", '  annotations: {podlane.io/egress-bandwidth: "30M"}\n  labels:')
    result = inject_text(GUARD + POLICY + labelled + own, USUAL)
    assert said_by(result.text)[0]["total"] == "20Mbit"
    assert "by the caps of ClusterTrafficPolicy guard" in " ".join(result.outcomes[-1].warnings)
    unknown = inject_text(GUARD + POLICY + own, USUAL)
    assert said_by(unknown.text)[0]["total"] == "30Mbit"
    (told,) = unknown.outcomes[-1].warnings
    assert told.startswith("Namespace shop is not in the files")
    assert "for which ClusterTrafficPolicy guard asks, are not known. Add it." in told


@pytest.mark.parametrize(
    "text",
    [
        BARE.replace("shop", "other"),
        BARE.replace("app: web", "app: db"),
        BARE.replace("  namespace: shop\n", ""),
        BARE.replace("labels: {app: web}", "labels: {app: web, podlane.io/mode: agent}"),
    ],
    ids=["another namespace", "other labels", "whichever namespace", "held by an agent"],
)
def test_pods_that_no_policy_of_the_files_is_for_stay_as_they_are(text: str) -> None:
    assert inject_text(POLICY + text, USUAL).text == POLICY + text


def test_objects_without_a_namespace_are_in_one_namespace() -> None:
    text = (POLICY + BARE).replace("namespace: shop", "").replace(", }", "}")
    assert said_by(inject_text(text, USUAL).text)[0]["total"] == "100Mbit"


def test_a_policy_of_the_files_that_cannot_be_honoured_is_told_by_its_name() -> None:
    with pytest.raises(ManifestError, match=r"Pod/web: TrafficPolicy web: .*Lower the rate of class mail"):
        inject_text(POLICY.replace("rate: 10Mbit", "rate: 110Mbit") + BARE, USUAL)


# --- errors ------------------------------------------------------------------------------------------------------------


def test_errors_name_document_workload_and_annotation_all_at_once() -> None:
    wrong = STATEFUL_SET.replace("10M", "10X").replace("team: data", "podlane.io/on-failure: ajar")
    with pytest.raises(ManifestError) as caught:
        inject_text(f"{DEPLOYMENT}---\n{wrong}---\n{CRON_JOB.replace('5M', '5')}", USUAL)
    first, second, third = str(caught.value).splitlines()
    assert first.startswith(
        "document 2 (line 43), StatefulSet/db: podlane.io/on-failure: 'ajar' is not one of the values"
    )
    assert second.startswith("document 2 (line 43), StatefulSet/db: podlane.io/egress-bandwidth: '10X' is not a Kubern")
    assert third.startswith("document 4 (line 65), CronJob/backup: podlane.io/egress-bandwidth: 5 is not a text. Put")


SHARED_PLACES = {
    "alias": ("  annotations: *a\n", "spec.template.metadata.annotations"),
    "merge": ("  <<: *m\n", "spec.template.metadata.annotations"),
    "anchor": ("  annotations: &b {podlane.io/egress-bandwidth: 1M}\n  labels: *b\n", "spec.template.metadata.annotations"),
}  # fmt: skip


@pytest.mark.parametrize(("metadata", "place"), SHARED_PLACES.values(), ids=SHARED_PLACES)
def test_what_is_shared_with_other_places_is_not_changed(metadata: str, place: str) -> None:
    text = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: &m\n  name: d\n"
        "  annotations: &a {podlane.io/egress-bandwidth: 1M}\nspec:\n template:\n  metadata:\n"
        + "".join(f"  {line}\n" for line in metadata.splitlines())
        + "  spec: {containers: [{name: a}]}\n"
    )
    with pytest.raises(ManifestError, match=f"Deployment/d: {place} is shared with other places"):
        inject_text(text, USUAL)


BROKEN = {
    "not YAML": ("a: [1,\nb: 2\n", "line 3, column 1: Not valid YAML or JSON: "),
    "half JSON": ('{"kind": "Pod"', "Not valid YAML"),
    "a date that is none": ("a: 2020-13-45\n", "Put the value in quotes"),
    "template of Helm": ("{{- if .Values.x }}\nkind: Pod\n{{- end }}\n", "Not valid YAML"),
    "too deep": ("[" * 5000 + "]" * 5000, "nesting depth"),
    "control character": ("a: \x07\n", "Not valid YAML"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_manifest_is_refused_with_the_place(text: str, words: str) -> None:
    for call in (lambda: inject_text(text, USUAL), lambda: uninject_text(text)):
        with pytest.raises(ManifestError) as caught:
            call()
        assert words in str(caught.value)


def test_a_layout_that_cannot_be_edited_is_refused_and_never_mangled() -> None:
    odd = POD.replace(
        "spec: {containers: [{name: a}]}", "spec:\n  containers:\n  - name: a\n  ? volumes\n  : - name: v"
    )
    assert uninject_text(inject_text(odd, USUAL).text).text == odd
    odd = POD.replace("spec: {containers: [{name: a}]}", "? spec\n: containers:\n  - name: a")
    with pytest.raises(ManifestError, match="layout"):
        inject_text(odd, USUAL)


# --- any style ---------------------------------------------------------------------------------------------------------

_ITEMS = st.lists(st.sampled_from(["app", "istio-init", "istio-proxy", "log", "é🛣"]), max_size=3, unique=True).map(
    lambda found: [{"name": n, "args": ["- x", "a\n\nb\n", "#"], "env": []} for n in found]
)
_LISTS = st.fixed_dictionaries(
    {"containers": _ITEMS}, optional=dict.fromkeys(("initContainers", "volumes", "imagePullSecrets"), _ITEMS)
)


@given(
    lists=_LISTS,
    flow=st.sampled_from([None, True, False]),
    style=st.sampled_from([None, "|", ">", '"', "'"]),
    indent=st.integers(2, 5),
    json_indent=st.none() | st.integers(0, 4) | st.just("\t"),
    as_json=st.booleans(),
    end=st.sampled_from(["", "\n", "\n\n", "\n# end", "\n# end\n", "\n---\n"]),
    defaults=st.sampled_from([USUAL, WITH_SECRET]),
)
@settings(max_examples=60)
def test_any_style(
    lists: dict[str, Any], flow: bool | None, style: str | None, indent: int, json_indent: Any, as_json: bool,
    end: str, defaults: InjectionDefaults,
) -> None:  # fmt: skip
    whole = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"metadata": {"annotations": {**LIMITS, "a": "b\n\nc\n"}}, "spec": lists}},
    }  # fmt: skip
    text = (
        json.dumps(whole, indent=json_indent, ensure_ascii=False)
        if as_json
        else yaml.dump(
            whole, Dumper=yaml.SafeDumper, default_flow_style=flow, default_style=style, indent=indent, width=40
        )
    )
    text = text.rstrip("\n") + end if as_json or style not in ("|", ">") else text
    after = inject_text(text, defaults).text
    assert template(documents(after)[0]) == injected(template(whole), defaults)
    assert inject_text(after, defaults).text == after
    assert uninject_text(after).text == text
