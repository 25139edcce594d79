"""The policy grammar: what is read, what is refused, and with which words."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_policy.errors import PolicyError
from traffic_policy.overlap import covers
from traffic_policy.policy import Match, PortRange, TrafficPolicy
from traffic_policy.policy_file import dump_policy, load_policy, parse_policy, policy_from_document
from traffic_policy.units import Rate

EXAMPLE = """
total: 100Mbit
classes:
  - name: api
    rate: 20Mbit
    ceil: 80Mbit
    priority: 1
    match:                                  # alternatives
      - sni: [api.example.com, "*.api.example.com"]
      - host: [api.example.com]             # host AND port
        port: [80, "8000-8100"]
  - name: backup
    rate: 1Mbit
    ceil: 10Mbit
    priority: 7
    match: [{cidr: [10.0.0.0/8], port: [873]}]
default: {rate: 1Mbit, ceil: 100Mbit}       # may be left out
"""


def test_the_example_reads_as_written() -> None:
    policy = parse_policy(EXAMPLE)
    api, backup, default = policy.resolved()
    assert (api.name, api.rate, api.ceil, api.priority) == ("api", Rate(20_000_000), Rate(80_000_000), 1)
    assert [str(m) for m in api.match] == [
        "sni api.example.com, *.api.example.com",
        "host api.example.com and port 80, 8000-8100",
    ]
    assert str(backup.match[0]) == "port 873 and cidr 10.0.0.0/8"
    assert (default.name, default.rate, default.priority) == ("default", Rate(1_000_000), 7)


def test_json_is_read_too_and_a_dumped_policy_loads_as_itself() -> None:
    policy = parse_policy(EXAMPLE)
    assert parse_policy(json.dumps(policy.to_document())) == policy
    assert parse_policy(dump_policy(policy)) == policy


def test_what_is_left_out_has_a_sensible_value() -> None:
    policy = parse_policy("total: 100Mbit\nclasses: [{name: a, rate: 10Mbit, match: {port: 80}}]")
    first, default = policy.resolved()
    assert (first.ceil, first.priority, first.burst) == (Rate(100_000_000), 4, None)
    assert (default.rate, default.ceil) == (Rate(1_000_000), Rate(100_000_000))


def test_the_default_class_is_never_left_with_nothing() -> None:
    policy = parse_policy("total: 10Mbit\nclasses: [{name: a, rate: 10Mbit, match: {port: 80}}]")
    assert policy.resolved()[-1].rate == Rate(8_000)


def test_a_policy_may_have_no_classes() -> None:
    assert [c.name for c in parse_policy("total: 1Gbit").resolved()] == ["default"]


def test_total_can_be_replaced_and_ceilings_follow() -> None:
    policy = parse_policy(EXAMPLE, total=Rate.parse("50Mbit"))
    assert policy.resolved()[0].ceil == Rate.parse("50Mbit")


def test_at_least_200_classes_of_equal_priority() -> None:
    classes = [{"name": f"c{i}", "rate": "1Mbit", "match": {"port": 1000 + i}} for i in range(254)]
    assert len(policy_from_document({"total": "1Gbit", "classes": classes}).resolved()) == 255


ONE = "total: 50Mbit\nclasses: [{{name: a, rate: 1Mbit, match: [{match}]}}]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("total: 50Mbit\nclasses: [{name: a, rate: 100Mbit, match: {port: 1}}]",
                     "Cannot guarantee 100 Mbit/s inside 50 Mbit/s. Lower the rate of class a or raise total to 100Mbit.",
                     id="guarantee-above-total"),
        pytest.param("total: 50Mbit\nclasses: [{name: a, rate: 30Mbit, match: {port: 1}}, {name: b, rate: 30Mbit, match: {port: 2}}]",
                     "Cannot guarantee 60 Mbit/s inside 50 Mbit/s. Lower the rates of the classes or raise total to 60Mbit.",
                     id="guarantees-above-total"),
        pytest.param("total: 50Mbit\nclasses: [{name: a, rate: 30Mbit, match: {port: 1}}]\ndefault: {rate: 30Mbit}",
                     "Cannot guarantee 60 Mbit/s", id="default-counts"),
        pytest.param("total: 50Mbit\nclasses: [{name: a, rate: 30Mbit, ceil: 20Mbit, match: {port: 1}}]",
                     "Lower the rate to 20Mbit or raise the ceil to 30Mbit", id="ceil-below-rate"),
        pytest.param("total: 50Mbit\nclases: []", "There is no key clases. Did you mean classes?", id="unknown-key"),
        pytest.param("total: 50Mbit\nclasses: [{name: a, rate: 1Mbit, match: {prot: 80}}]",
                     "classes[0].match[0]: There is no key prot. Did you mean port?", id="unknown-criterion"),
        pytest.param("total: 50Mbit\nxyzzy: 1", "The keys here are total, budget, shaper, classes, default, rehearsal, ingress, requests, quic.", id="unlike-any-key"),
        pytest.param("total: 50Mbit\nclasses: [{name: a, rate: 1Mbit, match: {port: 1}}, {name: a, rate: 1Mbit, match: {port: 2}}]",
                     "two classes named a", id="duplicate-name"),
        pytest.param("classes: []", "total is missing. Add the bandwidth", id="no-total"),
        pytest.param("total: 1Mbit\ntotal: 2Mbit", "'total' is written twice", id="key-twice"),
        pytest.param("total: [", "line 1", id="broken-yaml"),
        pytest.param("total: 2020-13-45", "Not valid YAML or JSON: month must be in 1..12", id="no-date"),
        pytest.param(f"total: {'9' * 5000}", "Not valid YAML or JSON", id="endless-number"),
        pytest.param(f"total: 0x{'f' * 9000}", "a number of 9002 characters is too long", id="endless-hexadecimal-number"),
        pytest.param(f"total: 1{':59' * 4000}.5", "this is no float", id="endless-sexagesimal-number"),
        pytest.param("total: !!bool x", "this is no bool", id="not-of-its-tag"),
        pytest.param("total: !!int ''", "this is no int", id="empty-of-its-tag"),
        pytest.param("total: !!timestamp x", "this is no timestamp", id="no-timestamp"),
        pytest.param("total: !!map [x]", "expected a mapping node", id="no-mapping-of-its-tag"),
        pytest.param("[" * 1000, "nested too deeply", id="endless-lists"),
        pytest.param("&a [*a]", "nested too deeply", id="a-list-in-itself"),
        pytest.param("a: &a [1,2,3,4,5,6,7,8,9]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij")),
                     "By its aliases the text stands for too much. Write it without.", id="aliases-of-aliases"),
        pytest.param(f"# {'long' * 5000}\ntotal: [", "line 3, column 1: Not valid YAML or JSON", id="broken-long-yaml"),
        pytest.param(f"# {'long' * 5000}\ntotal: 1Mbit\ntotal: 2Mbit", "'total' is written twice", id="key-twice-in-long-yaml"),
        pytest.param("- a", "this is a list", id="not-a-mapping"),
        pytest.param("", "this is empty", id="empty"),
        pytest.param("total: 100", "100Mbit", id="no-unit"),
        pytest.param("total: 1kbit", "too little to carry packets", id="tiny-total"),
        pytest.param(ONE.format(match="{}"), "has no criterion", id="empty-match"),
        pytest.param(ONE.format(match="{direction: outbound}"), "has no criterion", id="direction-alone"),
        pytest.param(ONE.format(match="{direction: both}"), "has no criterion", id="both-directions-alone"),
        pytest.param(ONE.format(match="{port: 80, direction: in}"), "'in' is not a direction. Write outbound, inbound or both.",
                     id="direction"),
        pytest.param(ONE.format(match=""), "The list is empty", id="no-match"),
        pytest.param(ONE.format(match="{sni: '*'}"), "cannot match", id="lone-star"),
        pytest.param(ONE.format(match="{sni: 'a.*.com'}"), "cannot match", id="inner-star"),
        pytest.param(ONE.format(match="{sni: '*api.example.com'}"), 'Write "*.api.example.com"', id="partial-label"),
        pytest.param(ONE.format(match="{host: '*.10.0.0.1'}"), "Use cidr", id="wildcard-address"),
        pytest.param(ONE.format(match="{port: ٣}"), "not a port", id="port-foreign-digit"),
        pytest.param("total: 9Mbit\nclasses: [{name: a, rate: 1Mbit, burst: 1500B, match: {port: 1}}]",
                     "Raise it to 3028B", id="burst-tiny"),
        pytest.param("total: 9Mbit\nclasses: [{name: a, rate: 1Mbit, burst: 1GiB, match: {port: 1}}]",
                     "Lower it to 7.2 MiB", id="burst-endless"),
        pytest.param(ONE.format(match="{port: 0}"), "1 to 65535", id="port-zero"),
        pytest.param(ONE.format(match="{port: '90-80'}"), 'Write "80-90"', id="range-backwards"),
        pytest.param(ONE.format(match="{port: 80.5}"), "not a port", id="port-fraction"),
        pytest.param(ONE.format(match="{cidr: 10.1.0.0/8}"), "Write 10.0.0.0/8 for the network", id="host-bits"),
        pytest.param(ONE.format(match="{cidr: nowhere}"), "not a network", id="no-network"),
        pytest.param(ONE.format(match="{protocol: gre}"), "Write tcp, udp or icmp", id="protocol"),
        pytest.param(ONE.format(match="{protocol: udp, host: a.b}"),
                     "host is read from TCP connections, so it cannot match udp", id="host-over-udp"),
        pytest.param(ONE.format(match="{protocol: icmp, sni: a.b}"),
                     "read from TCP and QUIC, so they cannot match icmp", id="sni-over-icmp"),
        pytest.param(ONE.format(match="{protocol: udp, sni: a.b}") + "\nquic: block",
                     "quic: block refuses QUIC, and a name in UDP is in nothing else", id="sni-over-udp-that-is-blocked"),
        pytest.param("total: 50Mbit\nquic: drop", "'drop' is not a way of treating QUIC. Write classify or block.", id="quic"),
        pytest.param(ONE.format(match="{alpn: ''}"), "ALPN", id="alpn-empty"),
        pytest.param(ONE.format(match="{sni: '*.b.c'}, {sni: [x.b.c, y.z.b.c], port: 443}"),
                     "is taken by classes[0].match[0] before it. Move it before that one, or remove it.", id="hidden"),
        pytest.param("total: 9Mbit\nclasses: [{name: default, rate: 1Mbit, match: {port: 1}}]",
                     "top-level key default", id="reserved-name"),
        pytest.param("total: 9Mbit\nclasses: [{name: 'a b', rate: 1Mbit, match: {port: 1}}]", "not a class name", id="bad-name"),
        pytest.param("total: 9Mbit\nclasses: [{name: a, rate: 1Mbit, priority: 8, match: {port: 1}}]",
                     "from 0 (first) to 7 (last)", id="priority"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_told_what_to_do(text: str, words: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse_policy(text)
    assert words in str(error.value)


def test_aliases_save_writing() -> None:
    text = """
total: 10Mbit
classes:
  - {name: a, rate: 1Mbit, match: {sni: &names [a.example, b.example]}}
  - {name: b, rate: 1Mbit, match: {host: *names}}
"""
    assert parse_policy(text).classes[1].match[0].host == ("a.example", "b.example")


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(PolicyError) as error:
        parse_policy("totl: 1Mbit\nclasses: [{name: a, rate: 5}]")
    assert [p.path for p in error.value.problems] == ["", "classes[0].rate", "classes[0]", ""]


def test_more_classes_than_the_mark_holds() -> None:
    classes = [{"name": f"c{i}", "rate": "1Mbit", "match": {"port": 1 + i}} for i in range(255)]
    with pytest.raises(PolicyError, match="room for 254"):
        policy_from_document({"total": "1Gbit", "classes": classes})


def test_thousands_of_names_are_checked_quickly() -> None:
    """Comparing each match with each took a minute; a loose guard against that coming back."""
    matches = [{"sni": f"h{i}.example.com"} for i in range(3000)]
    document = {"total": "1Gbit", "classes": [{"name": "a", "rate": "1Mbit", "match": matches}]}
    began = time.process_time()
    assert len(policy_from_document(document).classes[0].match) == 3000
    assert time.process_time() - began < 3
    matches.append({"sni": ["h17.example.com"], "port": 443})
    with pytest.raises(PolicyError, match=r"is taken by classes\[0\].match\[17\]"):
        policy_from_document(document)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.yaml: The policy cannot be read: No such file"):
        load_policy(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"total: 1Mbit # \xfc")
    with pytest.raises(PolicyError, match="UTF-8"):
        load_policy(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("outer", "inner", "hidden"),
    [
        ({"port": "1-10"}, {"port": [3, 7]}, True),
        ({"port": ["1-5", "6-10"]}, {"port": "2-9"}, True),
        ({"port": "1-10"}, {"port": [3, 11]}, False),
        ({"port": 443}, {"port": 443, "sni": "a.b"}, True),
        ({"port": 443, "sni": "a.b"}, {"port": 443}, False),
        ({"sni": "*.b"}, {"sni": "*.a.b"}, True),
        ({"sni": "*.b"}, {"sni": "b"}, False),
        ({"sni": "a.b"}, {"sni": "*.b"}, False),
        ({"sni": "a.b"}, {"host": "a.b"}, False),
        ({"cidr": "10.0.0.0/8"}, {"cidr": "10.1.0.0/16"}, True),
        ({"cidr": "10.0.0.0/8"}, {"cidr": ["10.1.0.0/16", "fd00::/8"]}, False),
        ({"protocol": "tcp"}, {"port": 80}, False),
        ({"protocol": ["tcp", "udp"]}, {"port": 80}, True),
        ({"protocol": ["tcp", "udp"]}, {"cidr": "10.0.0.0/8"}, False),
        ({"protocol": "tcp"}, {"sni": "a.b"}, False),
        ({"protocol": "tcp"}, {"host": "a.b"}, True),
        ({"protocol": ["tcp", "udp"]}, {"sni": "a.b"}, True),
        ({"alpn": ["h2", "http/1.1"]}, {"alpn": "h2"}, True),
        ({"alpn": "h2"}, {"alpn": ["h2", "http/1.1"]}, False),
        ({"port": 80}, {"port": 80, "direction": "inbound"}, False),
        ({"port": 80, "direction": "inbound"}, {"port": 80}, False),
        ({"port": 80, "direction": "both"}, {"port": 80, "direction": "inbound"}, True),
        ({"port": 80, "direction": "both"}, {"port": 80}, True),
        ({"port": 80}, {"port": 80, "direction": "both"}, False),
        ({"direction": "inbound"}, {"port": 80, "direction": "inbound"}, True),
    ],
    ids=str,
)
def test_when_one_match_hides_another(outer: dict[str, object], inner: dict[str, object], hidden: bool) -> None:
    assert covers(Match.model_validate(outer), Match.model_validate(inner)) is hidden


@given(st.text(max_size=200))
def test_no_text_crashes_the_loader(text: str) -> None:
    with suppress(PolicyError):
        assert isinstance(parse_policy(text), TrafficPolicy)


def test_ports_print_as_they_are_written() -> None:
    assert [str(PortRange.parse(p)) for p in (80, "8000-8100", "7 - 9")] == ["80", "8000-8100", "7-9"]
