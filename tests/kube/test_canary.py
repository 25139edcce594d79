"""A second revision of the injector beside the first, on a real API server; and another image in one Pod."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, LIMITED, deployment, pod
from release import LINGERING, Injector, Release
from service_address import ServiceAddress
from steady import PodCreator
from trust import metric
from waiting import until

NEW: Final = "9.9.9"
LISTED: Final = {"otherRevisions": ["canary"]}
OPT_OUTS: Final = ({}, {"podlane.io/inject": "false"}, {"podlane.io/rev": "nobody"}, {"podlane.io/rev": "canary"})


@pytest.fixture
def default(vacant: Release) -> Iterator[Release]:
    """The installation that all clusters have, with two injectors."""
    vacant.install({})
    vacant.serve(vacant.start_together(2, LINGERING))
    yield vacant
    vacant.stop()


@pytest.fixture
def canary(cluster: Cluster, default: Release) -> Iterator[Release]:
    """A second one of a newer version, which nobody was handed over to yet."""
    with ServiceAddress() as address:
        made = Release(cluster, default.namespace, address, cluster.daemons, "podlane-canary", "canary")
        made.install({"revision": "canary", "image": {"tag": NEW}})
        made.serve(made.start_together(2, LINGERING))
        yield made
        made.helm("uninstall", made.name, "--ignore-not-found")
        made.stop()


def injected_by(stored: dict[str, Any]) -> tuple[str, str]:
    """(revision, tag of the image) of a Pod, which must have exactly one sidecar."""
    (sidecar,) = (c for c in stored["spec"].get("initContainers", []) if c["name"] == "podlane")
    status = json.loads(stored["metadata"]["annotations"]["podlane.io/status"])
    return status.get("revision", ""), sidecar["image"].partition(":")[2]


def tried(kubectl: Kubectl, labels: dict[str, str] | None = None) -> tuple[str, str]:
    return injected_by(kubectl.create(pod(labels=labels), "--dry-run=server"))


def reviews(injectors: list[Injector]) -> dict[str, float]:
    """How many reviews of each webhook have been answered, whatever the answer was."""
    results = ("allowed", "patched", "refused", "error", "timeout", "bad_request", "forbidden", "busy", "abandoned")
    return {
        webhook: sum(
            metric(i, "podlane_injector_admissions_total", missing=0, webhook=webhook, result=r)
            for i in injectors for r in results
        )
        for webhook in ("mutate", "validate")
    }  # fmt: skip


OLD_ONE: Final = ("", "0.2.0")
NEW_ONE: Final = ("canary", NEW)


def test_the_way_of_an_upgrade(cluster: Cluster, default: Release, canary: Release) -> None:
    """docs/how-to/install.md has it as commands; here Pods are created all the time."""
    shop, bank, other = (
        cluster.namespace(INJECTED),
        cluster.namespace({"podlane.io/enforce": "true"}),
        cluster.namespace(),
    )
    assert {tried(shop), tried(bank)} == {OLD_ONE}
    shop.create(deployment())

    def restarted() -> set[tuple[str, str]]:
        shop("rollout", "restart", "deployment/web")
        shop("delete", "pods", "--all", "--force", "--grace-period=0")  # what the rollout does where Pods get ready
        pods = until("Pods", lambda: found if len(found := shop.list("pods")) >= 2 else None)
        return {injected_by(stored) for stored in pods}

    def label(namespace: Kubectl, change: str) -> None:
        cluster.kubectl("label", "--overwrite", "namespace", namespace.namespace, change)

    with PodCreator(cluster, shop.namespace) as creator:
        creator.more()
        default.install(LISTED)
        label(shop, "podlane.io/rev=canary")
        until("the new revision", lambda: tried(shop) == NEW_ONE)
        creator.more()
        assert restarted() == {NEW_ONE}
        assert tried(bank) == OLD_ONE, "who has no label stays where it was"
        assert tried(other, {"podlane.io/inject": "true"}) == OLD_ONE
        assert tried(other, {"podlane.io/inject": "true", "podlane.io/rev": "canary"}) == NEW_ONE
        label(bank, "podlane.io/rev=canary")
        until("the new revision", lambda: tried(bank) == NEW_ONE)

        # Nobody has to do with the old version any more: it can be exchanged.
        default.install({**LISTED, "image": {"tag": NEW}})
        default.roll()
        creator.more()
        default.install({"image": {"tag": NEW}})  # labels or not, all is the default installation's again
        until("the default revision", lambda: {tried(shop), tried(bank)} <= {NEW_ONE, ("", NEW)})
        canary.helm("uninstall", canary.name)
        until("the default revision", lambda: {tried(shop), tried(bank)} == {("", NEW)})
        label(shop, "podlane.io/rev-")
        label(bank, "podlane.io/rev-")
        creator.more()
        assert restarted() == {("", NEW)}
    assert creator.outcomes.keys() == {"injected"}, "no Pod was refused, and none was left out"


def test_each_pod_is_one_revision_s_business(cluster: Cluster, default: Release, canary: Release) -> None:
    default.install(LISTED)
    theirs = cluster.namespace(INJECTED | {"podlane.io/rev": "canary"})
    ours = cluster.namespace(INJECTED | {"podlane.io/rev": "canery"})  # nobody's, and so the default's
    until("the default one to leave it alone", lambda: tried(theirs) == NEW_ONE)
    old, new = default.injectors, canary.injectors
    for namespace, asked, left in ((theirs, new, old), (ours, old, new)):
        before = reviews(asked), reviews(left)
        namespace.create(pod())
        namespace("annotate", "pod", "app", "--overwrite", "podlane.io/egress-bandwidth=11M")
        after = reviews(asked), reviews(left)
        assert after[1] == before[1]
        assert {webhook: after[0][webhook] - before[0][webhook] for webhook in after[0]} == {"mutate": 1, "validate": 2}


def test_where_limits_are_enforced_no_label_is_a_way_out(cluster: Cluster, default: Release, canary: Release) -> None:
    default.install(LISTED)
    for revision in (None, canary.revision, "nobody", "canery"):
        kubectl = cluster.namespace(
            {"podlane.io/enforce": "true", **({"podlane.io/rev": revision} if revision else {})}
        )
        owner = NEW_ONE if revision == canary.revision else OLD_ONE
        until("the revision that serves it", lambda: tried(kubectl) == owner)  # noqa: B023
        webhook = f"enforced.inject.{'canary.' if owner == NEW_ONE else ''}podlane.io"
        for labels in OPT_OUTS:
            with pytest.raises(RefusedError, match=rf'"{re.escape(webhook)}" denied .* Every Pod of this namespace'):
                kubectl.create(pod({}, labels))
            if labels.get("podlane.io/inject") != "false":
                assert tried(kubectl, labels) == owner


def test_a_namespace_that_is_handed_over_too_early_gets_one_sidecar_all_the_same(
    cluster: Cluster, default: Release, canary: Release  # noqa: ARG001
) -> None:  # fmt: skip
    """The default installation has not heard of the revision: both are asked, and both are content."""
    kubectl = cluster.namespace(INJECTED | {"podlane.io/rev": "canary"})
    assert injected_by(kubectl.create(pod())) in (OLD_ONE, NEW_ONE)


def test_one_pod_tries_another_image(cluster: Cluster, default: Release) -> None:
    """Where its repository is trusted; the default installation's own is not, unless it is named."""
    kubectl, next_one = cluster.namespace(INJECTED), "registry.example.com/next/podlane:1.0.0-rc1"
    chosen = LIMITED | {"podlane.io/image": next_one}
    with pytest.raises(
        RefusedError, match=r"podlane\.io/image: Pods may not choose images of registry\.example\.com/next/podlane\."
    ):
        kubectl.create(pod(chosen))
    default.install({"sidecar": {"trustedImages": ["registry.example.com/next/podlane"]}})
    default.roll()
    stored = kubectl.create(pod(chosen))
    assert stored["spec"]["initContainers"][0]["image"] == next_one
    with pytest.raises(RefusedError, match=r"Choose one of registry\.example\.com/next/podlane"):
        kubectl.create(pod(LIMITED | {"podlane.io/image": "podlane:0.1.0"}))
    said = kubectl.run("annotate", "--overwrite", "pod", "app", f"podlane.io/image={next_one}2").stderr
    assert "Not in force before the Pod is created again: podlane.io/image." in said
    with pytest.raises(RefusedError, match="may not choose images of evil"):
        kubectl("annotate", "--overwrite", "pod", "app", "podlane.io/image=evil:1")
