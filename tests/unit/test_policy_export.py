"""``podlane export``: which limits become which policies, for which labels, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from podlane.export.groups import LimitedWorkload, grouped, selector_for
from podlane.main import main
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.objects import PodLabels, PolicyObject

CLASSES = "[{name: api, rate: 30Mbit, match: {sni: api.example.com, port: 443}}]"
LIMITS = {"podlane.io/egress-bandwidth": "100M", "podlane.io/classes": CLASSES}
LANES = {
    "kind": "ConfigMap",
    "apiVersion": "v1",
    "metadata": {"name": "lanes"},
    "data": {"policy.yaml": "total: 9Mbit"},
}


def workload(name: str, labels: dict[str, str], annotations: dict[str, str] | None = None, **about: Any) -> Any:
    inside = {"metadata": {"labels": labels, "annotations": annotations or {}}, "spec": {"containers": []}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, **about}, "spec": {"template": inside},
    }  # fmt: skip


def run(tmp_path: Path, *documents: Any, options: tuple[str, ...] = ("-n", "shop")) -> Result:
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return CliRunner().invoke(main, ["export", "-f", str(file), *options])


def policies(result: Result) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(result.stdout) if each]


def test_workloads_with_the_same_limits_are_one_policy_by_a_label_of_theirs(tmp_path: Path) -> None:
    shop = {"app.kubernetes.io/part-of": "shop"}
    done = run(
        tmp_path,
        workload("web", {"app": "web", "tier": "front", **shop}, LIMITS),
        workload("api", {"app": "api", "tier": "front", **shop}, {**LIMITS, "podlane.io/log-level": "debug"}),
        workload("db", {"app": "db", "tier": "back", **shop}, {"podlane.io/policy": "lanes"}),
        workload("free", {"app": "free", **shop}),
        LANES,
    )
    assert (done.exit_code, done.stderr) == (0, "")
    front, db = policies(done)
    assert front == {
        "apiVersion": "podlane.io/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "front", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"tier": "front"}}, "total": "100Mbit",
            "classes": [{"name": "api", "rate": "30Mbit", "match": [{"sni": ["api.example.com"], "port": [443]}]}],
        },
    }  # fmt: skip
    assert (db["metadata"]["name"], db["spec"]) == (
        "db",
        {"podSelector": {"matchLabels": {"app": "db"}}, "total": "9Mbit"},
    )
    assert "# From Deployment/web, Deployment/api.\n" in done.stdout
    assert "# No policy says these annotations, which stay: podlane.io/log-level.\n" in done.stdout


def test_each_policy_takes_its_pods_and_no_others(tmp_path: Path) -> None:
    everyone = {
        "a": ({"app": "x", "env": "a"}, "1M"), "b": ({"app": "x", "env": "b"}, "2M"), "c": ({"app": "y", "env": "b"}, "1M"),
        "d": ({"app": "z", "env": "a"}, None),
    }  # fmt: skip
    limited = {
        name: (labels, {"podlane.io/egress-bandwidth": rate} if rate else {})
        for name, (labels, rate) in everyone.items()
    }
    done = run(tmp_path, *(workload(name, labels, limits) for name, (labels, limits) in limited.items()))
    assert done.exit_code == 0
    found = [PolicyObject.from_object("TrafficPolicy", each) for each in policies(done)]
    for labels, rate in everyone.values():
        takers = [each for each in found if each.is_for(PodLabels("shop", {}, labels))]
        totals = {str(each.document["total"]) for each in takers}
        assert totals == ({rate.replace("M", "Mbit")} if rate else set())
    assert all(faults(each) == () for each in found)


def test_labels_that_do_not_last_are_never_used() -> None:
    volatile = {
        "pod-template-hash": "1",
        "helm.sh/chart": "web-1",
        "app.kubernetes.io/version": "1",
        "podlane.io/mode": "agent",
    }
    assert selector_for([{**volatile, "zone": "a"}], []) == {"matchLabels": {"zone": "a"}}
    assert selector_for([volatile], [{}]) is None
    assert selector_for([volatile], []) == {}


def test_what_a_program_is_called_is_taken_first() -> None:
    labels = {"aaa": "1", "app": "web", "app.kubernetes.io/name": "web"}
    assert selector_for([labels], []) == {"matchLabels": {"app.kubernetes.io/name": "web"}}
    assert selector_for([labels], [{"app.kubernetes.io/name": "web"}]) == {"matchLabels": {"app": "web"}}
    assert selector_for([labels], [{"app.kubernetes.io/name": "web", "app": "web"}]) == {"matchLabels": {"aaa": "1"}}
    both = [{"app": "web", "tier": "a"}, {"app": "web", "tier": "b"}]
    assert selector_for(both, [{"app": "web", "tier": "c"}]) == {
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]
    }
    assert selector_for(both, [{"app": "web", "tier": "c"}, {"app": "db", "tier": "b"}]) == {
        "matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
    }  # fmt: skip


def test_where_no_common_selector_takes_them_each_has_its_own() -> None:
    limits = {"total": "1Mbit"}
    one, two = LimitedWorkload("one", {"a": "1"}, limits), LimitedWorkload("two", {"b": "2"}, limits)
    found = list(grouped([one, two, LimitedWorkload("free", {"c": "3"})]))
    assert [each.selector for each in found] == [{"matchLabels": {"a": "1"}}, {"matchLabels": {"b": "2"}}]


def test_pods_that_no_label_tells_apart_are_told_of(tmp_path: Path) -> None:
    done = run(tmp_path, workload("web", {"app": "web"}, LIMITS), workload("canary", {"app": "web"}))
    assert done.exit_code == 1
    assert policies(done) == []
    assert "Deployment/web is left out: Deployment/canary has the same labels" in done.stderr
    assert "Give its Pods a label of their own" in done.stderr


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"podlane.io/egress-bandwidth": "10Mbit"}, "is not a Kubernetes quantity"),
        ({"podlane.io/policy": "gone"}, "has no ConfigMap gone"),
        (
            {"podlane.io/policy": "follow"},
            "no TrafficPolicy can say it. requests: The node agent sees the first packets",
        ),
    ],
)
def test_what_no_policy_can_say_is_left_out_with_the_reason(
    tmp_path: Path, annotations: dict[str, str], words: str
) -> None:
    follow = {**LANES, "metadata": {"name": "follow"}, "data": {"policy.yaml": "total: 9Mbit\nrequests: follow"}}
    done = run(tmp_path, workload("web", {"app": "web"}, annotations), workload("db", {"app": "db"}, LIMITS), follow)
    assert done.exit_code == 1
    assert [each["metadata"]["name"] for each in policies(done)] == ["db"]
    assert "Deployment/web is left out" in done.stderr
    assert words in done.stderr


def test_what_a_namespace_has_as_defaults_counts(tmp_path: Path) -> None:
    above = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": LIMITS}}
    (made,) = policies(run(tmp_path, above, workload("web", {"app": "web"})))
    assert made["spec"]["total"] == "100Mbit"


def test_a_bandwidth_plugin_s_annotation_is_told_of(tmp_path: Path) -> None:
    done = run(tmp_path, workload("web", {"app": "web"}, {"kubernetes.io/egress-bandwidth": "10M"}))
    assert done.exit_code == 0
    assert policies(done)[0]["spec"]["total"] == "10Mbit"
    assert "kubernetes.io/egress-bandwidth, which a bandwidth plugin of the cluster may hold it to" in done.stderr


def test_what_a_workload_made_is_not_told_twice(tmp_path: Path) -> None:
    deployment = workload("web", {"app": "web"}, LIMITS)
    owner = {"kind": "Deployment", "name": "web", "controller": True}
    old = workload("web-1", {"app": "web"}, {"podlane.io/egress-bandwidth": "1M"}, ownerReferences=[owner])
    assert len(policies(run(tmp_path, {"kind": "List", "items": [deployment, {**old, "kind": "ReplicaSet"}]}))) == 1


def test_namespaces_are_kept_apart_and_names_differ(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        workload("web", {"app": "web", "of": "a"}, LIMITS, namespace="a"),
        workload("web", {"app": "Web_", "of": "b"}, LIMITS, namespace="b"),
        workload("other", {"app": "web", "of": "c"}, {"podlane.io/egress-bandwidth": "1M"}, namespace="b"),
    )
    assert [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in policies(done)] == [
        ("a", "web"), ("b", "web"), ("b", "web-2"),
    ]  # fmt: skip


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, workload("web", {"app": "web"}))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "There are no limits in annotations" in done.stderr


def test_wrong_command_lines_say_what_to_do(tmp_path: Path) -> None:
    assert "Name the namespace by --namespace" in CliRunner().invoke(main, ["export"]).stderr
    (tmp_path / "x.yaml").write_text("a: [")
    done = CliRunner().invoke(main, ["export", "-f", str(tmp_path / "x.yaml")])
    assert (done.exit_code, "is no YAML" in done.stderr) == (1, True)
