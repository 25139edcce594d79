"""Reviews of Pods that change: annotations are checked, and nothing else that happens to them is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from admission_reviews import UID, answer, changed, review
from injected_pods import container, injected, pod

from injector.pod import admission
from injector.pod.admission import mutate, validate
from sidecar.config.loader import load_wanted
from sidecar.config.settings import SidecarSettings


def test_updates_of_annotations_are_checked() -> None:
    before = injected(pod())
    assert answer(validate, review(changed(before, egress_bandwidth="20M"), "UPDATE", before))["allowed"]
    assert not answer(validate, review(changed(before, egress_bandwidth="20X"), "UPDATE", before))["allowed"]


def test_updates_of_anything_else_are_never_refused() -> None:
    broken = pod(annotations={"podlane.io/egress-bandwidth": "10X"})
    finalized = copy.deepcopy(broken)
    finalized["metadata"]["finalizers"] = []
    assert answer(validate, review(finalized, "UPDATE", broken)) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize("label", ["false", "nonsense"])
def test_a_label_does_not_keep_updates_of_a_pod_with_a_sidecar_from_being_checked(label: str) -> None:
    before = injected(pod())
    after = changed(before, egress_bandwidth="20X")
    after["metadata"]["labels"] = {"podlane.io/inject": label}
    response = answer(validate, review(after, "UPDATE", before))
    assert "20X" in response["status"]["message"]


@pytest.mark.parametrize(("image", "allowed"), [("podlane:next", True), ("evil/podlane:test", False)])
def test_the_image_of_a_running_sidecar_stays_one_of_ours(image: str, allowed: bool) -> None:
    before = injected(pod())
    after = copy.deepcopy(before)
    container(after)["image"] = image
    response = answer(validate, review(after, "UPDATE", before))
    assert response["allowed"] is allowed
    assert allowed or "The image of container podlane can only be one of podlane" in response["status"]["message"]


def test_updates_that_come_to_nothing_are_warned_of() -> None:
    late = answer(validate, review(pod(), "UPDATE", pod(annotations={})))
    assert "count only in a Pod that is created again" in late["warnings"][0]
    before = injected(pod())
    shared = answer(
        validate, review(changed(before, policy="lanes"), "UPDATE", before), shared=lambda *_: "total: 10Mbit"
    )
    assert "runs without volume podlane-policy" in shared["warnings"][0]
    by_name = answer(validate, review(changed(before, **RECEIVES), "UPDATE", before))
    assert "runs without capability BPF in container podlane" in by_name["warnings"][0]


RECEIVES = {
    "ingress_bandwidth": "10M",
    "classes": "[{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {sni: a.example.com}}]",
}


@pytest.mark.parametrize("form", [["CAP_NET_ADMIN", "CAP_BPF"], ["NET_ADMIN"]], ids=["CAP_", "lost"])
def test_the_capability_for_what_arrives_must_have_come_through(form: list[str]) -> None:
    given = injected(changed(pod(), **RECEIVES))
    container(given)["securityContext"]["capabilities"]["add"] = form
    response = answer(validate, review(given))
    assert response["allowed"] is (form != ["NET_ADMIN"])
    assert response["allowed"] or "without capability BPF in container podlane" in response["status"]["message"]


def test_the_last_limit_of_a_pod_that_has_a_sidecar_cannot_be_taken_away() -> None:
    """The sidecar would keep the old one, as nothing says what to do instead."""
    before = injected(pod())
    after = copy.deepcopy(before)
    del after["metadata"]["annotations"]["podlane.io/egress-bandwidth"]
    response = answer(validate, review(after, "UPDATE", before))
    assert response["allowed"] is False
    assert "no annotation would say which" in response["status"]["message"]
    without_sidecar = answer(validate, review(pod(annotations={}), "UPDATE", pod()))
    assert without_sidecar["allowed"] is True
    assert "not held to limits" in without_sidecar["warnings"][0]


@pytest.mark.parametrize(
    ("change", "late"),
    [
        pytest.param({"datapath": "step-aside", "memory_limit": "1Gi"}, "podlane.io/datapath, podlane.io/memory-limit", id="late"),
        pytest.param({"egress_bandwidth": "20M", "exclude_outbound_ports": "25"}, "", id="at once"),
    ],
)  # fmt: skip
def test_updates_that_wait_for_a_new_pod_are_warned_of(change: dict[str, str], late: str) -> None:
    before = injected(pod())
    response = answer(validate, review(changed(before, **change), "UPDATE", before))
    assert response["allowed"] is True
    warnings = [f"podlane: Not in force before the Pod is created again: {late}."] if late else []
    assert response.get("warnings", []) == warnings


def test_what_waits_for_a_new_pod_is_what_the_sidecar_does_not_follow(tmp_path: Path) -> None:
    annotations = tmp_path / "annotations"
    annotations.write_text('podlane.io/egress-bandwidth="10M"\n')
    wanted = load_wanted(SidecarSettings(annotations=annotations))
    assert set(admission._FIXED) == {*wanted.fixed, "podlane.io/policy"}


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "UPDATE", "before": pod(annotations={})},
        {"operation": "DELETE", "given": None},
        {"operation": "CONNECT"},
        {"subResource": "ephemeralcontainers"},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": {"group": "", "version": "v1", "kind": "Service"}},
    ],
    ids=["update", "delete", "connect", "subresource", "another group", "another kind"],
)
def test_mutation_has_nothing_to_do_with_anything_but_new_pods(request_: dict[str, Any]) -> None:
    assert answer(mutate, review(**{"given": pod(), **request_})) == {"uid": UID, "allowed": True}
