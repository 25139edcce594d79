"""Several installations in one cluster: each Pod is one's business, or nobody's, as labels say."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
from asking import ANY, selects, webhook_configurations, webhooks_for
from rendering import NAMESPACE, HelmError, Values, of_kind, render, the

from injector.server.config import load_settings

OTHERS = ("canary", "blue")
MISTYPED = "canery"
Labels = dict[str, str]


@cache
def installation(revision: str) -> list[dict[str, Any]]:
    return render(Values({"revision": revision} if revision else {"otherRevisions": list(OTHERS)}))


def asked(manifests: list[dict[str, Any]], operation: str, namespace: Labels, pod: Labels) -> list[tuple[str, str]]:
    """(kind of configuration, path) of the webhooks that are called."""
    return [
        (configuration["kind"], webhook["clientConfig"]["service"]["path"])
        for configuration in webhook_configurations(manifests)
        for webhook in webhooks_for(configuration, operation)
        if selects(webhook["namespaceSelector"], namespace) and selects(webhook.get("objectSelector", ANY), pod)
    ]


def labels(**given: str | None) -> Labels:
    return {f"podlane.io/{key}": value for key, value in given.items() if value is not None}


REVISIONS = (None, "", *OTHERS, MISTYPED)
NAMESPACES = [
    labels(enforce=enforce, inject=inject, rev=rev)
    for enforce, inject, rev in itertools.product((None, "true"), (None, "enabled", "disabled"), REVISIONS)
]
PODS = [labels(inject=inject, rev=rev) for inject, rev in itertools.product((None, "true", "false"), REVISIONS)]


def owner(namespace: Labels, pod: Labels) -> str:
    """By the rule of the reference: the revision is said where the choice is made."""
    chosen = "podlane.io/enforce" in namespace or namespace.get("podlane.io/inject") == "enabled"
    said = (namespace if chosen else pod).get("podlane.io/rev", "")
    return said if said in OTHERS else ""


def test_every_pod_has_the_one_owner_that_its_labels_name() -> None:
    """And whether it is asked about at all, no label podlane.io/rev changes."""
    alone = render(Values({}))
    for namespace, pod in itertools.product(NAMESPACES, PODS):
        whole = {"kubernetes.io/metadata.name": "shop", **namespace}
        found = {each: calls for each in ("", *OTHERS) if (calls := asked(installation(each), "CREATE", whole, pod))}
        expected = asked(alone, "CREATE", whole, pod)
        assert found == ({owner(namespace, pod): expected} if expected else {}), (namespace, pod)


def test_a_namespace_that_enforces_limits_is_not_freed_by_a_label_that_nobody_serves() -> None:
    for namespace, pod in itertools.product(NAMESPACES, PODS):
        if "podlane.io/enforce" in namespace:
            whole = {"kubernetes.io/metadata.name": "shop", **namespace}
            calls = [call for each in ("", *OTHERS) for call in asked(installation(each), "CREATE", whole, pod)]
            assert [path for _, path in calls] == ["/mutate/enforced", "/validate/enforced"], (namespace, pod)


def test_changes_of_pods_are_looked_at_by_the_revision_of_their_namespace() -> None:
    for namespace, pod in itertools.product(NAMESPACES, PODS):
        whole = {"kubernetes.io/metadata.name": "shop", **namespace}
        found = [each for each in ("", *OTHERS) if asked(installation(each), "UPDATE", whole, pod)]
        rev = namespace.get("podlane.io/rev", "")
        assert found == [rev if rev in OTHERS else ""], (namespace, pod)


def test_installations_share_no_object_and_no_pod() -> None:
    def names(revision: str, release: str) -> set[tuple[str, str]]:
        values = {"revision": revision, "fullnameOverride": release}
        return {(m["kind"], m["metadata"]["name"]) for m in render(Values(values))}

    long = "n" * 60
    for release in ("podlane", long):
        assert not names("", release) & names("canary", release)
        assert not names("blue", release) & names("canary", release)
        assert all(len(name) <= 63 for _, name in names("a" * 20, release))
    assert (
        the(render(Values({"revision": "canary", "fullnameOverride": "podlane-canary"})), "Service")["metadata"]["name"]
        == "podlane-canary-injector"
    )  # and not -canary-canary


def test_webhooks_say_in_refusals_which_revision_they_are() -> None:
    for configuration in webhook_configurations(installation("canary")):
        assert all(webhook["name"].endswith(".canary.podlane.io") for webhook in configuration["webhooks"])


def test_the_injector_and_the_pod_of_helm_test_know_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(Values({"revision": "true"}))
    (container,) = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert load_settings({}).defaults().revision == "true"
    (test,) = (p for p in of_kind(manifests, "Pod") if p["metadata"]["namespace"] != NAMESPACE)
    calls = asked(manifests, "CREATE", {"kubernetes.io/metadata.name": "default"}, test["metadata"]["labels"])
    assert [path for _, path in calls] == ["/mutate", "/validate"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"revision": "canary", "otherRevisions": ["blue"]}, "otherRevisions is for the installation that has no revision"),
        ({"revision": "Canary"}, "/revision"),
        ({"revision": "a" * 21}, "/revision"),
        ({"otherRevisions": [""]}, "/otherRevisions/0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=words):
        render(Values(values))
