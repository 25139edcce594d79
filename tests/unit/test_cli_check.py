"""``podlane check``: reading capabilities, and the report."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest
from trees import TOLD_BY

from podlane.check.command import report
from podlane.check.findings import Finding, Status, capabilities, findings, shaping
from tc_core.compile.ingress_classifier import INGRESS_CLASSIFIERS, IngressClassifier
from tc_core.probe.capability import ALL_FEATURES, USES, Features, absent
from traffic_policy.settings import IptablesSetting


def _status(effective: int) -> str:
    return f"Name:\tpython\nCapInh:\t0000000000000000\nCapEff:\t{effective:016x}\nCapBnd:\t000001ffffffffff\n"


@pytest.mark.parametrize(
    ("effective", "missing", "noted"),
    [
        (0x1FFFFFFFFFF, [], []),
        (1 << 12, ["CAP_SYS_ADMIN"], ["CAP_SETGID", "CAP_BPF", "CAP_PERFMON"]),
        ((1 << 12) | (1 << 21), [], ["CAP_SETGID", "CAP_BPF", "CAP_PERFMON"]),
        (0, ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"], ["CAP_SETGID", "CAP_BPF", "CAP_PERFMON"]),
    ],
    ids=["root", "a container with NET_ADMIN", "NET_ADMIN and SYS_ADMIN", "an ordinary user"],
)
def test_capabilities(effective: int, missing: list[str], noted: list[str]) -> None:
    found = list(capabilities(_status(effective)))
    assert [f.name for f in found if f.status is Status.MISSING] == missing
    assert [f.name for f in found if f.status is Status.NOTE] == noted
    assert all(f.remedy for f in found if f.status is not Status.OK)


def test_the_report_shows_remedies_only_where_something_is_to_be_done() -> None:
    found = [
        Finding("Privileges", "CAP_NET_ADMIN", Status.OK, "for classes", "Use sudo."),
        Finding("Limits", "open files", Status.NOTE, "at most 1024", "Raise it."),
        Finding("Limits", "pipes", Status.OK, "not limited"),
    ]
    assert [click.unstyle(line) for line in report(found)] == [
        "Privileges",
        "  ok       CAP_NET_ADMIN  for classes",
        "\nLimits",
        "  note     open files     at most 1024",
        "                          -> Raise it.",
        "  ok       pipes          not limited",
        "",
        "Everything Podlane needs is here.",
    ]


def test_the_report_ends_with_what_is_missing() -> None:
    found = [Finding("Shaping", name, Status.MISSING, "ENOENT", f"modprobe {name}") for name in ("sch_htb", "cls_fw")]
    assert click.unstyle(list(report(found))[-1]) == "Missing: sch_htb, cls_fw."


def test_a_container_that_can_run_the_sidecar_alone_is_told_so() -> None:
    found = [
        Finding("Privileges", "CAP_NET_ADMIN", Status.OK),
        Finding("Privileges", "CAP_SYS_ADMIN", Status.MISSING, "for network namespaces", "Use sudo."),
    ]
    assert [click.unstyle(line) for line in list(report(found))[-2:]] == [
        "Missing for `podlane run` and `podlane demo`: CAP_SYS_ADMIN.",
        "Everything `podlane sidecar` needs is here.",
    ]


def test_without_cap_net_admin_nothing_is_called_missing_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datapath.netfilter.backend.has_net_admin", lambda: False)
    monkeypatch.setattr("datapath.netfilter.features.has_net_admin", lambda: False)
    monkeypatch.setattr("datapath.stepaside.features.has_net_admin", lambda: False)
    monkeypatch.setattr("datapath.ebpf.features.has_net_admin", lambda: False)
    found = {f.name: f for f in findings(IptablesSetting.AUTO) if f.group in ("Shaping", "Capture")}
    assert found.keys() == {"HTB", "iptables", "step-aside", "ebpf", "python-iptables"}
    assert found["HTB"].detail == found["iptables"].detail == "nothing can be tried without CAP_NET_ADMIN"
    assert found["python-iptables"].status is found["step-aside"].status is Status.NOTE
    assert found["ebpf"].status is Status.NOTE
    assert not any("modprobe" in f.remedy for f in found.values())


def _without(*names: str) -> Features:
    gone = {name: absent(getattr(ALL_FEATURES, name).name, "no such file or directory", 2) for name in names}
    return replace(ALL_FEATURES, **gone)


@pytest.mark.parametrize(
    ("features", "missing", "noted"),
    [
        (ALL_FEATURES, 0, []),
        (_without("fw"), 0, ["fw"]),
        (_without("fw", "fq_codel"), 0, ["fw", "fq_codel"]),
        (_without("gso_max_size"), 0, ["gso_max_size"]),
        (_without("htb"), 1, []),
        (_without("fw", "classic_bpf"), 3, []),
        (_without("fq_codel", "bfifo"), 2, []),
    ],
    ids=["stock kernel", "no fw", "the least that works", "no gso", "no HTB", "no classifier", "no queue"],
)
def test_a_missing_part_is_a_note_where_another_takes_its_place(
    features: Features, missing: int, noted: list[str]
) -> None:
    found = list(shaping(features))
    assert len([f for f in found if f.status is Status.MISSING]) == missing
    assert [f.name for f in found if f.status is Status.NOTE] == [getattr(features, name).name for name in noted]
    assert all(f.remedy for f in found if f.status is not Status.OK)


@pytest.mark.parametrize("ingress_classifier", list(TOLD_BY))
def test_it_says_who_tells_the_class_of_what_arrives(ingress_classifier: IngressClassifier) -> None:
    *_, last = shaping(TOLD_BY[ingress_classifier])
    assert (last.status, last.detail) == (
        Status.OK,
        f"found, with the relay, {INGRESS_CLASSIFIERS[ingress_classifier]}",
    )
    without = replace(TOLD_BY[ingress_classifier], ifb=absent(ALL_FEATURES.ifb.name, "not here"))
    assert last.name not in {each.name for each in shaping(without)}


def test_what_only_some_policies_ask_for_is_never_missing() -> None:
    wanted = {feature.name: absent(feature.name, "unknown qdisc") for feature in ALL_FEATURES if feature.name in USES}
    assert len(wanted) == len(USES)
    fields = {f: getattr(ALL_FEATURES, f) for f in ALL_FEATURES.__slots__}
    features = Features(**{f: wanted.get(feature.name, feature) for f, feature in fields.items()})
    found = {f.name: f for f in shaping(features)}
    assert {name for name, f in found.items() if f.status is not Status.OK} == set(USES)
    for name, use in USES.items():
        assert found[name].status is Status.NOTE
        assert found[name].detail == f"unknown qdisc; used only by {use} in a policy"
