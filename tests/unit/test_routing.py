"""The routing table: order decides, criteria are ANDed, alternatives ORed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from datapath.routing.flow import Content, Destination, parse_address
from datapath.routing.table import RoutingTable
from traffic_policy.names import NameSet
from traffic_policy.policy import Bound, Quic, TransportProtocol
from traffic_policy.policy_file import parse_policy

POLICY = parse_policy(
    """
total: 100Mbit
classes:
  - {name: api, rate: 1Mbit, match: [{sni: [api.example.com, "*.api.example.com"]},
                                     {host: api.example.com, port: [80, "8000-8100"]}]}
  - {name: db, rate: 1Mbit, match: [{port: 5432}, {sni: db.example.com, port: 6379}]}
  - {name: h2, rate: 1Mbit, match: {alpn: h2, cidr: [10.0.0.0/8, "fd00::/8"]}}
  - {name: backup, rate: 1Mbit, match: {cidr: [10.0.0.0/8], port: 873}}
  - {name: dns, rate: 1Mbit, match: {protocol: udp, port: 53}}
"""
)
TABLE = RoutingTable.from_policy(POLICY)


@pytest.mark.parametrize(
    ("address", "port", "content", "expected"),
    [
        ("192.0.2.1", 443, Content(sni="api.example.com"), "api"),
        ("192.0.2.1", 443, Content(sni="x.y.api.example.com"), "api"),
        ("192.0.2.1", 443, Content(sni="notapi.example.com"), "default"),
        ("192.0.2.1", 443, Content(host="api.example.com"), "default"),
        ("192.0.2.1", 8050, Content(host="api.example.com"), "api"),
        ("192.0.2.1", 5432, Content(), "db"),
        ("192.0.2.1", 5432, Content(sni="api.example.com"), "db"),
        ("192.0.2.1", 6379, Content(sni="db.example.com"), "db"),
        ("192.0.2.1", 6379, Content(), "default"),
        ("10.1.1.1", 443, Content(sni="o.example", alpn=("http/1.1", "h2")), "h2"),
        ("fd00::7", 443, Content(alpn=("h2",)), "h2"),
        ("::ffff:10.1.1.1", 443, Content(alpn=("h2",)), "h2"),
        ("10.1.1.1", 873, Content(), "backup"),
        ("11.1.1.1", 873, Content(), "default"),
        ("192.0.2.1", 53, Content(), "default"),
    ],
    ids=str,
)
def test_first_match_wins(address: str, port: int, content: Content, expected: str) -> None:
    assert TABLE.route(Destination.parse(address, port), content).class_name == expected


def test_udp_is_matched_by_what_its_packets_show() -> None:
    udp = Destination.parse("192.0.2.1", 53, TransportProtocol.UDP)
    assert TABLE.route(udp).class_name == "dns"
    other = Destination.parse("192.0.2.1", 4433, TransportProtocol.UDP)
    assert not TABLE.undecided(other)


QUIC = {
    "a server name on HTTP/3's port": (443, Content(sni="api.example.com"), "api", True),
    "a name that no match knows": (443, Content(sni="other.example.com"), "default", True),
    "another port, which no match names": (8443, Content(sni="api.example.com"), "default", False),
    "a port that the match names": (6379, Content(sni="db.example.com"), "db", True),
    "a port of a match by host, which QUIC does not show": (8050, Content(sni="api.example.com"), "default", False),
}


@pytest.mark.parametrize("case", QUIC)
def test_names_decide_in_quic_where_quic_is_looked_for(case: str) -> None:
    port, content, expected, undecided = QUIC[case]
    there = Destination.parse("192.0.2.1", port, TransportProtocol.UDP)
    assert (TABLE.route(there, content).class_name, TABLE.undecided(there)) == (expected, undecided)
    assert not TABLE.refuses_quic(there)


@pytest.mark.parametrize("case", QUIC)
def test_where_quic_is_blocked_no_name_decides_and_what_could_be_decided_is_refused(case: str) -> None:
    port, content, _, undecided = QUIC[case]
    table = RoutingTable.from_policy(POLICY.model_copy(update={"quic": Quic.BLOCK}))
    there = Destination.parse("192.0.2.1", port, TransportProtocol.UDP)
    assert (table.route(there, content).class_name, table.undecided(there)) == ("default", False)
    assert table.refuses_quic(there) is undecided
    assert not table.refuses_quic(Destination.parse("192.0.2.1", port)), "TCP is what clients fall back to"
    assert not table.refuses_quic(replace(there, bound=Bound.INBOUND)), "clients elsewhere would wait"


def test_a_policy_by_quic_alone_captures_nothing() -> None:
    text = "total: 9Mbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example, protocol: udp, port: 8443}}]"
    table = RoutingTable.from_policy(parse_policy(text))
    assert (table.needs_capture, table.reads_quic) == (False, True)
    assert table.undecided(Destination.parse("192.0.2.1", 8443, TransportProtocol.UDP))
    assert not table.undecided(Destination.parse("192.0.2.1", 8443))


def test_443_can_be_silent_too() -> None:
    silent = RoutingTable.from_policy(POLICY, (443,))
    assert not silent.undecided(Destination.parse("192.0.2.1", 443, TransportProtocol.UDP))


@pytest.mark.parametrize(
    ("address", "port", "undecided"),
    [
        ("192.0.2.1", 443, True),
        ("192.0.2.1", 5432, False),
        ("192.0.2.1", 3306, False),
        ("192.0.2.1", 6379, True),
        ("10.0.0.1", 873, True),
    ],
    ids=str,
)
def test_only_what_content_could_decide_is_captured(address: str, port: int, undecided: bool) -> None:
    assert TABLE.undecided(Destination.parse(address, port)) is undecided


def test_silent_ports_are_configurable() -> None:
    table = RoutingTable.from_policy(POLICY, silent_ports=(443,))
    assert not table.undecided(Destination.parse("192.0.2.1", 443))
    assert table.undecided(Destination.parse("192.0.2.1", 3306))


def test_a_policy_without_content_needs_no_capture() -> None:
    assert TABLE.needs_capture
    assert not RoutingTable.from_policy(parse_policy("total: 1Mbit")).needs_capture


def test_wildcards_stand_for_names_below_at_any_depth_but_not_for_the_name_itself() -> None:
    names = NameSet.from_patterns(["*.example.com", "exact.org"])
    assert "a.example.com" in names
    assert "a.b.example.com" in names
    assert "exact.org" in names
    assert "example.com" not in names
    assert "badexample.com" not in names
    assert "a.exact.org" not in names


SOURCES = RoutingTable.from_policy(
    parse_policy(
        """
total: 100Mbit
classes:
  - {name: jobs, rate: 1Mbit, match: [{source: [10.0.1.0/24, "fd00:1::/64"]}, {source: 10.0.2.0/24, sni: a.example}]}
  - {name: ping, rate: 1Mbit, match: {protocol: icmp}}
  - {name: ops, rate: 1Mbit, match: {application: ssh}}
"""
    )
)


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        ("10.0.1.7", Content(), "jobs"),
        ("::ffff:10.0.1.7", Content(), "jobs"),
        ("fd00:1::7%eth0", Content(), "jobs"),
        ("10.0.2.7", Content(sni="a.example"), "jobs"),
        ("10.0.2.7", Content(), "default"),
        ("10.0.3.7", Content(sni="a.example"), "default"),
        (None, Content(sni="a.example"), "default"),
    ],
    ids=str,
)
def test_the_source_is_a_criterion_like_others(source: str | None, content: Content, expected: str) -> None:
    client = None if source is None else parse_address(source)
    assert SOURCES.route(Destination.parse("192.0.2.1", 443), content, source=client).class_name == expected


def test_only_where_the_source_fits_can_content_decide() -> None:
    https = Destination.parse("192.0.2.1", 443)
    assert SOURCES.undecided(https, source=parse_address("10.0.2.7"))
    assert not SOURCES.undecided(https, source=parse_address("10.0.3.7"))
    assert SOURCES.reads_source
    assert not TABLE.reads_source


def test_protocols_and_services_are_told_apart() -> None:
    assert SOURCES.route(Destination.parse("192.0.2.1", 0, TransportProtocol.ICMP)).class_name == "ping"
    assert SOURCES.route(Destination.parse("192.0.2.1", 22)).class_name == "ops"
    assert SOURCES.route(Destination.parse("192.0.2.1", 22, TransportProtocol.UDP)).class_name == "default"


BOTH_WAYS = RoutingTable.from_policy(
    parse_policy(
        """
total: 100Mbit
classes:
  - {name: shop, rate: 1Mbit, match: {host: shop.example.com, direction: inbound}}
  - {name: sync, rate: 1Mbit, match: {port: 873, direction: both}}
  - {name: out, rate: 1Mbit, match: {port: [80, 873]}}
"""
    )
)


@pytest.mark.parametrize(
    ("bound", "port", "host", "expected"),
    [
        (Bound.INBOUND, 80, "shop.example.com", "shop"),
        (Bound.OUTBOUND, 80, "shop.example.com", "out"),
        (Bound.INBOUND, 80, None, "default"),
        (Bound.INBOUND, 873, None, "sync"),
        (Bound.OUTBOUND, 873, None, "sync"),
        (Bound.OUTBOUND, 22, None, "default"),
    ],
    ids=str,
)
def test_who_opened_the_connection_is_a_criterion(bound: Bound, port: int, host: str | None, expected: str) -> None:
    destination = Destination.parse("192.0.2.1", port, bound=bound)
    assert BOTH_WAYS.route(destination, Content(host=host)).class_name == expected


def test_what_is_captured_depends_on_who_opened_it() -> None:
    assert BOTH_WAYS.captures(Bound.INBOUND)
    assert not BOTH_WAYS.captures(Bound.OUTBOUND)
    assert BOTH_WAYS.undecided(Destination.parse("192.0.2.1", 80, bound=Bound.INBOUND))
    assert not BOTH_WAYS.undecided(Destination.parse("192.0.2.1", 80))
    assert TABLE.captures(Bound.OUTBOUND)
    assert not TABLE.captures(Bound.INBOUND)


def test_a_destination_here_is_another_than_the_same_elsewhere() -> None:
    here = Destination.parse("192.0.2.1", 80, bound=Bound.INBOUND)
    assert here != Destination.parse("192.0.2.1", 80)
    assert hash(here) != hash(Destination.parse("192.0.2.1", 80))


REQUESTS = """
total: 100Mbit
requests: follow
classes:
  - {name: tls, rate: 1Mbit, ceil: 1Mbit, match: {sni: a.example}}
  - {name: both, rate: 1Mbit, ceil: 2Mbit, match: {host: b.example, sni: b.example}}
  - {name: mail, rate: 1Mbit, ceil: 3Mbit, match: {port: 25}}
  - {name: jobs, rate: 1Mbit, ceil: 4Mbit, match: {host: jobs.example, source: 10.0.1.0/24}}
  - {name: api, rate: 3Mbit, ceil: 9Mbit, match: {host: api.example, port: [80, 25]}}
  - {name: web, rate: 2Mbit, ceil: 9Mbit, match: [{host: web.example}, {host: www.example, direction: inbound}]}
default: {ceil: 50Mbit}
"""


@pytest.mark.parametrize(
    ("destination", "source", "strictest"),
    [
        (Destination.parse("192.0.2.1", 80), "10.0.1.7", "jobs"),
        (Destination.parse("192.0.2.1", 80), "10.0.2.7", "web"),
        (Destination.parse("192.0.2.1", 8080), "10.0.2.7", "web"),
        (Destination.parse("192.0.2.1", 80, bound=Bound.INBOUND), "10.0.2.7", "web"),
        (Destination.parse("192.0.2.1", 25), "10.0.2.7", "mail"),
        (Destination.parse("192.0.2.1", 3306), "10.0.2.7", None),
    ],
    ids=[
        "every criterion",
        "another source",
        "another port",
        "opened by a client",
        "a port with a class",
        "a silent port",
    ],
)
def test_requests_are_followed_where_they_could_differ(
    destination: Destination, source: str, strictest: str | None
) -> None:
    """Of the classes of plain requests: not those that TLS would need."""
    table = RoutingTable.from_policy(parse_policy(REQUESTS))
    client = parse_address(source)
    assert table.requests_may_differ(destination, source=client) is (strictest is not None)
    assert table.strictest(destination, source=client) == (strictest or "default")
    first = RoutingTable.from_policy(parse_policy(REQUESTS.replace("requests: follow", "requests: first")))
    assert not first.requests_may_differ(destination, source=client)
