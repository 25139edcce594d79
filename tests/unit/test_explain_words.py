"""``podlane explain``: policies in plain words. Every sentence is checked against what the policy makes the kernel do."""

from __future__ import annotations

import pytest

from podlane.explanation import (
    BY_BOTH,
    BY_KERNEL,
    BY_PROXY,
    BY_REST,
    Explanation,
    explain_policy,
    percent,
    traffic_words,
)
from tc_core.policy import Match
from tc_core.policy_file import parse_policy
from tc_core.units import Rate

ISSUE = """
total: 100Mbit
classes:
  - name: api
    rate: 20Mbit
    ceil: 80Mbit
    priority: 1
    match:
      - sni: [api.example.com, "*.api.example.com"]
      - host: [api.example.com]
        port: [80, "8000-8100"]
  - name: backup
    rate: 1Mbit
    ceil: 10Mbit
    priority: 7
    match: [{cidr: [10.0.0.0/8], port: [873]}]
default: {rate: 1Mbit, ceil: 100Mbit}
"""


def explain(text: str) -> Explanation:
    return explain_policy(parse_policy(text))


def one_class(match: str, **limits: str) -> Explanation:
    rest = "".join(f", {key}: {value}" for key, value in limits.items())
    return explain(f"total: 100Mbit\nclasses: [{{name: a, rate: 10Mbit{rest}, match: [{match}]}}]")


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
    ],
)
def test_traffic_in_words(criteria: dict[str, object], words: str) -> None:
    assert traffic_words(Match.model_validate(criteria)) == words


def test_limits_shares_and_who_decides() -> None:
    explanation = explain(ISSUE)
    assert [(c.name, c.rate, c.ceil, c.turn, c.decided_by) for c in explanation.classes] == [
        ("api", Rate.parse("20Mbit"), Rate.parse("80Mbit"), 1, BY_PROXY),
        ("backup", Rate.parse("1Mbit"), Rate.parse("10Mbit"), 2, BY_KERNEL),
        ("default", Rate.parse("1Mbit"), Rate.parse("100Mbit"), 2, BY_REST),
    ]
    assert explanation.classes[0].sentence == (
        "is guaranteed 20 Mbit/s (20 % of the total), and may borrow up to 80 Mbit/s "
        "while others leave bandwidth unused (priority 1: lent to first)."
    )
    assert explanation.unreserved == Rate.parse("78Mbit")


def test_a_class_with_both_kinds_of_match_says_so() -> None:
    assert one_class("{port: [80]}, {sni: [a.test]}").classes[0].decided_by == BY_BOTH


def test_who_is_lent_first() -> None:
    assert explain(ISSUE).lending == (
        "What a class does not use is lent to api (priority 1), then to backup and default (priority 7), to each up to "
        "its ceil. Classes of one priority share it in proportion to their guarantees."
    )


def test_a_class_whose_ceil_is_its_rate_never_borrows() -> None:
    explanation = one_class("{port: [80]}", ceil="10Mbit")
    assert explanation.classes[0].sentence.endswith("and never more, since its ceil is its rate.")
    assert "lent to default (priority 7)" in explanation.lending
    assert "a " not in explanation.lending.partition("lent to")[2].split(",")[0]


def test_nothing_is_captured_when_the_kernel_can_decide_everything() -> None:
    explanation = one_class("{port: [80]}")
    assert explanation.captured.startswith("Nothing is captured")
    assert not any("UDP shows no names" in note for note in explanation.notes)


@pytest.mark.parametrize(
    ("match", "captured"),
    [
        ("{sni: [a.test], port: [443]}", "TCP connections to port 443, unless"),
        ("{sni: [a.test], port: [443]}, {host: [a.test], port: [80]}", "TCP connections to port 80 or 443, unless"),
        ("{sni: [a.test]}", "TCP connections to any port except 21, 25, 53, 110,"),
        ("{sni: [a.test]}, {sni: [b.test], port: [25]}", "TCP connections to any port except 21, 53, 110,"),
        ("{sni: [a.test], port: [443], cidr: [10.0.0.0/8]}", "TCP connections to port 443 in 10.0.0.0/8, unless"),
    ],
    ids=["one port", "two ports", "any port", "a silent port that is named", "network"],
)
def test_what_is_captured(match: str, captured: str) -> None:
    assert f"Captured by the proxy: {captured}" in one_class(match).captured


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "total: 50Mbit\nclasses: [{name: a, rate: 1Mbit, ceil: 80Mbit, match: [{port: 80}]}]",
            "a: its ceil of 80 Mbit/s is above the total and is cut to 50 Mbit/s.",
        ),
        (
            "total: 50Mbit\ndefault: {ceil: 80Mbit}",
            "default: its ceil of 80 Mbit/s is above the total and is cut to 50 Mbit/s.",
        ),
        ("total: 50Mbit", "default: no rate is written for it, so it gets 500 kbit/s (1 % of the total, or less)."),
        (
            "total: 50Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{sni: a.test}]}]",
            "DNS (port 53) is left alone: it goes to the class of its port and address, past the proxy.",
        ),
        (
            "total: 50Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{sni: a.test, host: a.test}]}]",
            "a: a match asks for TLS (sni, alpn) and an HTTP host at once. TLS hides the host, so it takes nothing. Write two matches if you mean either.",
        ),
    ],
    ids=["ceil above total", "default's ceil", "default's rate", "DNS", "impossible match"],
)
def test_notes(text: str, note: str) -> None:
    assert note in explain(text).notes


def test_ports_named_by_every_match_need_no_words_about_silent_ones() -> None:
    notes = one_class("{sni: [a.test], port: [443]}").notes
    assert not any("server speaks first" in note or "DNS" in note for note in notes)
    assert any("HTTP/3" in note for note in notes)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.2, "20 %"), (0.005, "0.5 %"), (0.0001, "0.01 %"), (2e-7, "< 0.01 %"), (0, "0 %")],
    ids=["whole", "fraction", "smallest shown", "below it", "none"],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert percent(share) == words
