"""The file of workloads: what it may say, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.errors import WorkloadsError
from node_agent.sources.file import read_workloads
from node_agent.workload import lanes_of_annotations
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.settings import Datapath, OnFailure

POLICY = "{total: 10Mbit, classes: [{name: a, rate: 1Mbit, match: {port: 80}}]}"


def written(folder: Path, text: str) -> Path:
    path = folder / "workloads.yaml"
    path.write_text(text)
    return path


def test_each_entry_is_a_workload(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(POLICY)
    text = f"""
workloads:
  - {{name: web, netns: web, interface: eth1, policy: web.yaml}}
  - {{name: pod, netns: /proc/7/ns/net, policy: {POLICY}}}
  - {{name: host, policy: {POLICY}}}
"""
    found = read_workloads(written(tmp_path, text))
    assert {name: str(each.network_namespace) for name, each in found.workloads.items()} == {
        "web": "/run/netns/web", "pod": "/proc/7/ns/net", "host": "/proc/self/ns/net",
    }  # fmt: skip
    assert found.files == (tmp_path / "web.yaml",)
    lanes = found.workloads["web"].lanes
    assert lanes is not None
    assert lanes.interface == "eth1"
    assert [each.name for each in lanes.policy.classes] == ["a"]
    digests = {each.lanes.digest for each in found.workloads.values() if each.lanes}
    assert len(digests) == 2, "the same policy on another interface is another thing"
    assert lanes.on_failure is OnFailure.OPEN
    closed = read_workloads(written(tmp_path, f"workloads: [{{name: a, on-failure: closed, policy: {POLICY}}}]"))
    lanes = closed.workloads["a"].lanes
    assert lanes is not None
    assert lanes.on_failure is OnFailure.CLOSED
    assert lanes.digest not in digests


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("gone.yaml", "gone.yaml"),
        ("{total: 1Mbit, classes: [{name: a, rate: 2Mbit, match: {port: 80}}]}", "raise total"),
        ("{total: 9Mbit, requests: follow}", "mode: sidecar"),
        ("{total: 9Mbit, shaper: cake}", "shaper"),
        ("3", "A policy is a mapping"),
    ],
)
def test_a_wrong_policy_is_the_refusal_of_its_workload_alone(tmp_path: Path, policy: str, reason: str) -> None:
    text = f"workloads:\n- {{name: a, netns: a, policy: {policy}}}\n- {{name: b, netns: b, policy: {POLICY}}}"
    found = read_workloads(written(tmp_path, text)).workloads
    assert found["a"].lanes is None
    assert reason in found["a"].refusal
    assert found["b"].lanes is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "one key, workloads"),
        ("[]", "one key, workloads"),
        ("workloads: {}", "with a list"),
        ("workloads: []\nmore: 1", "one key, workloads"),
        ("workloads: [3]", r"workloads\[0\]: 3 is not a mapping"),
        ("workloads: [{netns: a, policy: x}]", r"workloads\[0\].name: Write a name"),
        ("workloads: [{name: -a, netns: a, policy: x}]", "Write a name of letters"),
        ("workloads: [{name: 7, netns: a, policy: x}]", "7 is not a text. Put it in quotes"),
        ("workloads: [{name: a, netns: 7, policy: x}]", "7 is not a text"),
        ("workloads: [{name: a, netns: a, interface: a b, policy: x}]", "not an interface's name"),
        ("workloads: [{name: a, netns: a}]", "policy: It is missing"),
        ("workloads: [{name: a, netns: a, on-failure: shut, policy: x}]", "shut is neither open nor closed"),
        ("workloads: [{name: a, netns: a, polcy: x}]", "There is no key 'polcy'. There are name, netns"),
        (f"workloads: [{{name: a, netns: a, policy: {POLICY}}}, {{name: a, netns: b, policy: {POLICY}}}]", "twice"),
        (
            f"workloads: [{{name: a, netns: a, policy: {POLICY}}}, {{name: b, netns: a, policy: {POLICY}}}]",
            "merge them",
        ),
        ("workloads: [{name: a, netns: a, policy: x, mesh: consul}]", "mesh: .consul. is none of auto, istio"),
        ("workloads: [", "workloads.yaml"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(WorkloadsError, match=reason):
        read_workloads(written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkloadsError, match=r"No such file.*--workloads"):
        read_workloads(tmp_path / "gone.yaml")
    (tmp_path / "workloads.yaml").write_bytes(b"workloads: [\xff]")
    with pytest.raises(WorkloadsError, match="not UTF-8"):
        read_workloads(tmp_path / "workloads.yaml")


def test_annotations_give_the_same_lanes_as_in_a_sidecar() -> None:
    annotations = {
        "podlane.io/egress-bandwidth": "10M",
        "podlane.io/exclude-outbound-ports": "53",
        "podlane.io/on-failure": "closed",
        "podlane.io/datapath": "relay",
    }
    lanes = lanes_of_annotations(annotations)
    assert [str(each) for each in lanes.settings(None, Datapath.STEP_ASIDE).capture.exclude_outbound_ports] == ["53"]
    assert [warning.split(" has no effect")[0] for warning in lanes.warnings] == ["podlane.io/datapath: relay"]
    assert not lanes.settings(None, Datapath.STEP_ASIDE).capture.queue_bypass
    assert (
        lanes_of_annotations({"podlane.io/egress-bandwidth": "10M"})
        .settings(None, Datapath.STEP_ASIDE)
        .capture.queue_bypass
    )
    with pytest.raises(AnnotationsError):
        lanes_of_annotations({})
    shared = "{total: 9Mbit, requests: follow}"
    with pytest.raises(AnnotationsError, match="mode: sidecar"):
        lanes_of_annotations({"podlane.io/policy": "shared"}, shared=shared)
