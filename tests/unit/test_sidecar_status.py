"""The documents of the admin server: the effective policy with its reasons, and live connections, a bounded number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trees import TOLD_BY

from daemon.admin_server import QueryError
from daemon.documents.codec import to_json
from datapath.connection_list import LiveConnection, Order, select_connections
from datapath.documents.connections import connections_asked
from datapath.documents.policy import Arriving, policy_document
from datapath.netfilter.ruleset import CaptureSettings
from datapath.shaping import Shaping
from tc_core.apply.execute import apply
from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import compile_policy
from tc_core.fake.kernel import FakeKernel
from tc_core.probe.capability import ALL_FEATURES
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy, policy_from_document
from traffic_policy.settings import Datapath

POLICY = """
total: 100Mbit
classes:
  - name: api
    rate: 20Mbit
    ceil: 80Mbit
    priority: 1
    match: [{sni: ["*.api.example.com"]}, {port: [8443], cidr: [10.0.0.0/8]}]
  - {name: calls, rate: 1Mbit, queue: low-latency, match: {port: "5060-5061", protocol: udp}}
default: {ceil: 200Mbit}
"""


def document(text: str = POLICY, *, datapath: Datapath = Datapath.RELAY, lost: str | None = None) -> dict[str, Any]:
    policy = parse_policy(text)
    ids = ClassIds.assign(c.name for c in policy.classes)
    kernel = FakeKernel("eth0")
    apply(kernel, "eth0", compile_policy(policy, ALL_FEATURES, ids))
    there = {c.handle: c for c in kernel.observe("eth0").classes if c.handle.minor != (lost and 0x100 + ids[lost])}
    settings = CaptureSettings(datapath=datapath, interface="eth0")
    made: dict[str, Any] = json.loads(
        json.dumps(to_json(policy_document("eth0", {"policy": "p.yaml"}, policy, ids, there, settings)))
    )
    return made


def test_the_policy_can_be_used_as_it_is_printed() -> None:
    assert policy_from_document(document()["policy"], source="/policy") == parse_policy(POLICY)


@pytest.mark.parametrize("datapath", list(Datapath))
def test_each_match_says_who_finds_its_traffic(datapath: Datapath) -> None:
    classes = {each["name"]: each for each in document(datapath=datapath)["classes"]}
    assert [(m["traffic"], m["found_by"]) for m in classes["api"]["matches"]] == [
        ("TLS connections to any name below api.example.com", datapath.value),
        ("TCP and UDP on port 8443 to 10.0.0.0/8", "kernel rule"),
    ]
    assert classes["api"]["matches"][1]["match"] == {"port": [8443], "cidr": ["10.0.0.0/8"]}
    assert {name: each["found_by"] for name, each in classes.items()} == {
        "api": [datapath.value, "kernel rule"],
        "calls": ["kernel rule"],
        "default": ["default"],
    }


def test_a_class_has_its_mark_its_limits_and_its_reason() -> None:
    api, calls, default = document()["classes"]
    assert (api["id"], api["handle"], api["mark"]) == (1, "1:101", "0x1000000/0xff000000")
    assert api["asked"] == api["in_force"] == {"rate": "20Mbit", "ceil": "80Mbit", "priority": 1}
    assert api["reason"] == (
        "api is guaranteed 20 Mbit/s (20 % of the total), and may borrow up to 80 Mbit/s "
        "while others leave bandwidth unused (priority 1: lent to first)."
    )
    assert calls["notes"] == ["Low latency: its queue is kept shorter, at some cost to flows over long distances."]
    assert default["asked"] == {"rate": "1Mbit", "ceil": "100Mbit", "priority": 7}
    assert default["notes"] == ["Everything that no class takes."]
    assert any("its ceil of 200 Mbit/s is above the total" in note for note in document()["notes"])


ARRIVES = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: api, rate: 20Mbit, priority: 1, ingress: {rate: 10Mbit, ceil: 40Mbit}, match: {sni: api.example.com}}
  - {name: calls, rate: 1Mbit, match: {port: 5060}}
"""


@pytest.mark.parametrize("ingress_classifier", list(TOLD_BY))
def test_what_arrives_has_its_limits_and_who_keeps_them(ingress_classifier: IngressClassifier) -> None:
    policy = parse_policy(ARRIVES)
    shaping = Shaping(FakeKernel("eth0"), "eth0", TOLD_BY[ingress_classifier], replace=False)
    shaping.begin(policy, shaping.ids_for(policy))
    shaping.finish()
    arriving = Arriving(
        shaping.received_in_force(), shaping.ingress_classifier, shaping.pacing_limits(policy, shaping.ids)
    )
    settings = CaptureSettings(interface="eth0")
    made = policy_document("eth0", {}, policy, shaping.ids, shaping.classes_in_force(), settings, arriving)
    told = json.loads(json.dumps(to_json(made)))
    assert (told["received"]["total"], told["received"]["names_told_by"]) == ("50Mbit", ingress_classifier.value)
    api, calls, default = (each["received"] for each in told["classes"])
    asked = {"rate": "10Mbit", "ceil": "40Mbit", "priority": 1}
    assert calls is None
    assert api["asked"] == asked
    assert default["asked"] == {"rate": "500kbit", "ceil": "50Mbit", "priority": 7}
    if ingress_classifier is IngressClassifier.PACING:
        assert (api["in_force"], api["in_relay"]) == ({**asked, "rate": "8kbit"}, asked)
        assert default["in_relay"] == default["in_force"] == default["asked"]
    else:
        assert (api["in_force"], api["in_relay"]) == (asked, None)
    assert document()["received"] is None
    assert document()["classes"][0]["received"] is None


def test_a_class_that_the_kernel_has_not_is_not_in_force() -> None:
    assert [each["in_force"] is None for each in document(lost="calls")["classes"]] == [False, True, False]


# --- connections -----------------------------------------------------------------------------------------------------


def connection(name: str, age: float | None, up: int | None = 0) -> LiveConnection:
    return LiveConnection(name, ("10.0.0.1", 1), ("10.0.0.2", 2), "outbound", None, None, "relaying", age, up, 0)


@pytest.mark.parametrize(
    ("limit", "order", "names"),
    [
        (9, Order.NEWEST, ["c", "a", "b", "unknown"]),
        (2, Order.NEWEST, ["c", "a"]),
        (9, Order.LARGEST, ["b", "c", "a", "unknown"]),
        (1, Order.LARGEST, ["b"]),
        (0, Order.LARGEST, []),
    ],
)
def test_the_first_of_many(limit: int, order: Order, names: list[str]) -> None:
    many = [
        connection("a", 2.0, 1),
        connection("b", 3.0, 9),
        connection("unknown", None, None),
        connection("c", 1.0, 5),
    ]
    assert [each.class_name for each in select_connections(many, limit, order)] == names


def test_what_is_asked_for() -> None:
    assert connections_asked({}) == (200, Order.NEWEST)
    assert connections_asked({"limit": "5000", "order": "largest"}) == (5000, Order.LARGEST)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"limit": "0"}, "limit=0 is not a number of connections. Write one from 1 to 5000."),
        ({"limit": "5001"}, "from 1 to 5000"),
        ({"limit": "-1"}, "limit=-1"),
        ({"limit": "9" * 5000}, "from 1 to 5000"),
        ({"limit": ""}, "from 1 to 5000"),
        ({"order": "oldest"}, "order=oldest is not known. Write order=newest or order=largest."),
        ({"lmit": "1"}, "There is no lmit to ask for. Ask with limit=NUMBER, and order=newest or largest."),
    ],
)
def test_a_wrong_question_is_told(query: dict[str, str], words: str) -> None:
    with pytest.raises(QueryError) as caught:
        connections_asked(query)
    assert words in str(caught.value)
