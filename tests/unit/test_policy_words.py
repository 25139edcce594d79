"""Policies in plain words, for whoever puts them in force: bandwidth, queues, what arrives, which packets."""

from __future__ import annotations

import pytest

from traffic_policy import describe as words
from traffic_policy.describe import describe, percent, traffic_words
from traffic_policy.policy import Match, TrafficPolicy
from traffic_policy.policy_file import parse_policy

PRIO = parse_policy(
    """
total: 10Mbit
shaper: prio
classes:
  - {name: bulk, ceil: 2Mbit, priority: 6, match: {application: rsync}}
  - {name: voip, priority: 0, match: {port: "5000-6000", protocol: udp}}
  - {name: same, priority: 6, match: {port: 80}}
"""
)


def htb(more: str = "", **limits: str) -> TrafficPolicy:
    rest = "".join(f", {key}: {value}" for key, value in limits.items())
    return parse_policy(f"total: 100Mbit\n{more}\nclasses: [{{name: a, rate: 10Mbit{rest}, match: [{{port: 80}}]}}]")


@pytest.mark.parametrize(
    ("criteria", "words"),
    [
        ({"sni": ["a.test"]}, "TLS connections to a.test"),
        ({"sni": ["a.test", "*.b.test"]}, "TLS connections to a.test or any name below b.test"),
        ({"host": ["a.test"]}, "HTTP requests to a.test (Host or :authority)"),
        ({"alpn": ["h2", "http/1.1"]}, "TLS connections offering h2 or http/1.1 by ALPN"),
        ({"sni": ["a.test"], "alpn": ["h2"]}, "TLS connections to a.test offering h2 by ALPN"),
        ({"sni": ["a.test"], "port": [443, "8000-8100"]}, "TLS connections to a.test on port 443 or 8000-8100"),
        ({"sni": ["a.test"], "cidr": ["10.0.0.0/8"]}, "TLS connections to a.test in 10.0.0.0/8"),
        ({"port": [53]}, "TCP and UDP on port 53"),
        ({"port": [53], "protocol": ["udp"]}, "UDP on port 53"),
        ({"cidr": ["10.0.0.0/8", "fd00::/8"]}, "everything (TCP, UDP, ICMP ...) to 10.0.0.0/8 or fd00::/8"),
        ({"protocol": ["udp", "tcp"], "cidr": ["10.0.0.0/8"]}, "TCP and UDP to 10.0.0.0/8"),
        ({}, "everything (TCP, UDP, ICMP ...)"),
        ({"protocol": ["icmp"], "source": ["fd00::/8"]}, "ICMP from fd00::/8"),
        (
            {"source": ["10.0.0.0/8"], "cidr": ["192.0.2.1"], "port": [80]},
            "TCP and UDP on port 80 to 192.0.2.1/32 from 10.0.0.0/8",
        ),
        ({"application": ["ssh"]}, "ssh (port 22, TCP)"),
        ({"application": ["ssh", "dns"]}, "ssh (port 22, TCP) or domain (port 53, TCP and UDP)"),
        ({"application": ["dns"], "protocol": ["udp"]}, "domain (port 53, UDP)"),
        ({"sni": ["a.test"], "application": ["https"]}, "TLS connections to a.test on port 443 (https)"),
        ({"mark": ["0x10/0xff", 3]}, "everything (TCP, UDP, ICMP ...) with the packet mark 0x10/0xff or 0x3"),
    ],
    ids=[
        "sni",
        "wildcard",
        "host",
        "alpn",
        "sni and alpn",
        "ports",
        "content and cidr",
        "port",
        "udp",
        "cidr",
        "both protocols",
        "empty",
        "icmp and source",
        "source and destination",
        "application",
        "two applications",
        "application with protocol",
        "sni and application",
        "marks",
    ],
)
def test_traffic_in_words(criteria: dict[str, object], words: str) -> None:
    assert traffic_words(Match.model_validate(criteria)) == words


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.2, "20 %"), (0.005, "0.5 %"), (0.0001, "0.01 %"), (2e-7, "< 0.01 %"), (0, "0 %")],
    ids=["whole", "fraction", "smallest shown", "below it", "none"],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert percent(share) == words


def test_strict_priority_names_everybody_in_the_order_of_sending() -> None:
    assert words.sharing(PRIO).startswith("Strict priority: first voip, then bulk, then same, then default.")
    assert [words.limits(c, PRIO) for c in PRIO.resolved()] == [
        "is sent when voip leaves room, at most 2 Mbit/s (priority 6).",
        "is sent first of all, at most 10 Mbit/s (priority 0).",
        "is sent when voip and bulk leave room, at most 10 Mbit/s (priority 6).",
        "is sent when voip, bulk and same leave room, at most 10 Mbit/s (priority 7).",
    ]


@pytest.mark.parametrize(
    ("shaper", "headline", "sharing"),
    [
        ("tbf", "10 Mbit/s on eth0, for all traffic together", "no part of it is guaranteed"),
        ("cake", "10 Mbit/s on eth0, for all traffic together, shared fairly (CAKE)", "fairly between hosts"),
        ("prio", "10 Mbit/s on eth0, in strict priority for the default class alone", "no part of it is guaranteed"),
    ],
)
def test_shapers_without_classes_promise_nothing(shaper: str, headline: str, sharing: str) -> None:
    policy = parse_policy(f"total: 10Mbit\nshaper: {shaper}")
    assert words.headline(policy, "eth0") == headline
    assert sharing in words.sharing(policy)
    assert "guaranteed 0" not in describe(policy)
    assert "default may send at most 10 Mbit/s." in describe(policy)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, ()),
        (
            {"queue": "low-latency"},
            ("Low latency: its queue is kept shorter, at some cost to flows over long distances.",),
        ),
        ({"queue": "sfq"}, ("Its packets wait in sfq: flows take turns.",)),
        (
            {"rehearsal": "{delay: 50ms, jitter: 5ms, loss: 1%, corrupt: 0.05%}"},
            (
                (
                    "Rehearsal: each packet leaves 50ms later, give or take 5ms; "
                    "of the packets 1 % is lost and 0.05 % are damaged in one bit at random."
                ),
            ),
        ),
        ({"rehearsal": "{duplicate: 2%}"}, ("Rehearsal: of the packets 2 % are sent twice at random.",)),
    ],
    ids=["nothing asked for", "low latency", "a qdisc", "delay and loss", "duplicates"],
)
def test_how_packets_wait(limits: dict[str, str], said: tuple[str, ...]) -> None:
    assert words.waiting(htb(**limits).resolved()[0]) == said


def test_what_a_class_may_receive() -> None:
    policy = htb("ingress: {total: 50Mbit}", ingress="{rate: 5Mbit, ceil: 90Mbit}")
    assert words.receiving("a", policy.received()) == (
        (
            "Of what arrives, it is guaranteed 5 Mbit/s (10 % of the total there), and may borrow up to 50 Mbit/s "
            "while others leave bandwidth unused (priority 4: lent to first)."
        ),
    )
    notes = list(words.bandwidth_notes(policy))
    assert "a: its ingress ceil of 90 Mbit/s is above the total and is cut to 50 Mbit/s." in notes
    assert not any("What it receives is not" in note for note in notes)


def test_a_class_without_ingress_counts_as_the_rest_of_what_arrives() -> None:
    policy = htb("ingress: {total: 50Mbit}")
    assert words.receiving("a", policy.received()) == ("What it receives counts as the default class's.",)
    assert words.receiving("a", htb().received()) == ()


def test_a_description_has_every_class_in_order_with_its_limits_and_traffic() -> None:
    policy = htb(queue="fifo")
    text = describe(policy, interface="eth7")
    parts = [
        "100 Mbit/s on eth7, shared by 1 class and the default one.",
        "lent to a (priority 4), then to default (priority 7)",
        "a is guaranteed 10 Mbit/s (10 % of the total)",
        "Its packets wait in a FIFO",
        "TCP and UDP on port 80",
        "default is guaranteed 1 Mbit/s",
        "Everything that no class takes.",
        "What the interface sends is shaped.",
    ]
    flat = " ".join(text.split())
    assert sorted(parts, key=flat.index) == parts
    assert max(map(len, text.splitlines())) <= 100
