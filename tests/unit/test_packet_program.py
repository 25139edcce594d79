"""Programs that find a packet's class, executed: against what the rules mean, and on packets made by hand."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import pytest
from bpf_machine import Skb, check, run
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_meaning import ARP, IPV6, extension, fragment_header, ipv4, ipv6, ports_of, verdict

from tc_core.bpf import packet_program
from tc_core.bpf.classic_assembler import IF_AT_LEAST, IF_EQUAL, LD_IMMEDIATE, LD_LENGTH, RETURN, Assembler, Label
from tc_core.bpf.mark_classifier import classic_bytes, classic_text, fingerprint
from tc_core.bpf.packet_program import MAX_INSTRUCTIONS, PACKET_PRIO, PacketRule, Program, filters, programs
from tc_core.handles import ROOT, Handle
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import Mark
from traffic_policy.policy import Network, PortRange

A, B, C = Handle(1, 0x10), Handle(1, 0x11), Handle(1, 0x12)
TCP, UDP, ICMP, ESP, SCTP, ICMPV6, NO_NEXT = 6, 17, 1, 50, 132, 58, 59
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


def rule(target: Handle = A, **criteria: Sequence[int | str] | Mark) -> PacketRule:
    """A rule in a line: networks and ranges as text, ports as numbers too."""
    values: dict[str, object] = dict(criteria)
    for name in ("source", "destination"):
        values[name] = tuple(net(str(text)) for text in criteria.get(name, ()))  # type: ignore[union-attr]
    values["protocols"] = tuple(criteria.get("protocols", ()))  # type: ignore[arg-type]
    for name in ("ports", "source_ports"):
        values[name] = tuple(PortRange.parse(p) for p in criteria.get(name, ()))  # type: ignore[union-attr]
    return PacketRule(target, **values)  # type: ignore[arg-type]


@lru_cache(64)
def checked(rules: tuple[PacketRule, ...], mirrored: bool) -> tuple[Program, ...]:
    """The programs of these rules, of which the kernel would take each."""
    made = programs(rules, mirrored=mirrored)
    for program in made:
        check(program.instructions)
    return made


def class_of(rules: Sequence[PacketRule], skb: Skb, *, mirrored: bool = False) -> int:
    """What the filters say, one after the other, as the kernel asks them."""
    return next((found for p in checked(tuple(rules), mirrored) if (found := run(p.instructions, skb))), 0)


def selects(one: PacketRule, skb: Skb, *, mirrored: bool = False) -> bool:
    found = class_of([one], skb, mirrored=mirrored)
    assert found in (0, int(one.target))
    assert found == verdict([one], skb, mirrored=mirrored), "the oracle disagrees"
    return bool(found)


# --- the mistakes of the seed project, each a test -----------------------------------------------------------------------


def test_a_network_never_matches_everything() -> None:
    for text, inside, outside in (
        ("10.2.0.0/16", ipv4(), ipv4(destination="10.3.0.1")),
        ("fd00:2::/32", ipv6(), ipv6(destination="fd00:3::1")),
    ):
        assert selects(rule(destination=[text]), inside)
        assert not selects(rule(destination=[text]), outside)
    assert not selects(rule(destination=["10.2.0.0/16"]), ipv6()), "a network of the other version"
    assert not selects(rule(destination=["fd00:2::/32"]), ipv4())
    assert not selects(rule(destination=["0.0.0.0/0"]), ipv6())
    assert not selects(rule(destination=["::/0"]), ipv4())


def test_a_protocol_never_matches_everything() -> None:
    for packet in (ipv4, ipv6):
        for protocol in range(256):
            skb = packet(protocol=protocol)
            assert selects(rule(protocols=[UDP]), skb) == (protocol == UDP)
            assert selects(rule(protocols=[ICMP, ICMPV6]), skb) == (protocol in (ICMP, ICMPV6))


def test_the_destination_port_is_not_the_source_port() -> None:
    for packet in (ipv4, ipv6):
        assert selects(rule(ports=[443]), packet(ports_of(40000, 443)))
        assert not selects(rule(ports=[443]), packet(ports_of(443, 40000)))


def test_criteria_of_one_match_are_all_required() -> None:
    both = rule(source=["10.1.0.0/16"], destination=["10.2.0.0/16"], protocols=[UDP], ports=[53], mark=Mark(4, 4))
    right = ipv4(ports_of(40000, 53), protocol=UDP, mark=4)
    assert selects(both, right)
    for wrong in (
        ipv4(ports_of(40000, 53), protocol=UDP, mark=4, source="10.9.0.1"),
        ipv4(ports_of(40000, 53), protocol=UDP, mark=4, destination="10.9.0.1"),
        ipv4(ports_of(40000, 53), protocol=TCP, mark=4),
        ipv4(ports_of(40000, 54), protocol=UDP, mark=4),
        ipv4(ports_of(40000, 53), protocol=UDP, mark=3),
    ):
        assert not selects(both, wrong)


# --- addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "10.0.0.1"], []),
        ("128.0.0.0/1", ["128.0.0.0", "255.255.255.255"], ["127.255.255.255"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("10.2.0.4/30", ["10.2.0.4", "10.2.0.7"], ["10.2.0.3", "10.2.0.8"]),
        ("10.2.0.4/32", ["10.2.0.4"], ["10.2.0.5", "10.2.0.3", "10.2.0.36"]),
        ("255.255.255.255/32", ["255.255.255.255"], ["255.255.255.254"]),
        ("::/0", ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], []),
        ("2000::/3", ["2000::", "3fff::1"], ["1fff::", "4000::"]),
        ("fd00:1::/32", ["fd00:1::", "fd00:1:ffff::"], ["fd00:0:ffff::", "fd00:2::"]),
        ("fd00:1:8000::/33", ["fd00:1:8000::", "fd00:1:ffff::"], ["fd00:1:7fff::", "fd00:2:8000::"]),
        ("fd00:1:2:3::/64", ["fd00:1:2:3::", "fd00:1:2:3:ffff::"], ["fd00:1:2:4::", "fd00:1:3:3::"]),
        ("fd00:1:2:3:4::/80", ["fd00:1:2:3:4:ffff::"], ["fd00:1:2:3:5::", "fd00:1:2:2:4::"]),
        ("fd00::4:0:1/126", ["fd00::4:0:1", "fd00::4:0:3"], ["fd00::4:0:4", "fd00::5:0:1"]),
        ("fd00::1/128", ["fd00::1"], ["fd00::2", "fd00::1:0:1", "fd00:1::1"]),
        ("10.2.0.0/16", [], ["::ffff:10.2.0.1", "::10.2.0.1"]),
        ("::ffff:0:0/96", ["::ffff:10.2.0.1"], ["10.2.0.1", "::fffe:10.2.0.1"]),
    ],
)  # fmt: skip
def test_a_network_is_its_addresses(network: str, inside: list[str], outside: list[str]) -> None:
    network = str(ipaddress.ip_network(network, strict=False))
    for address in (*inside, *outside):
        packet = ipv6 if ":" in address else ipv4
        assert selects(rule(destination=[network]), packet(destination=address)) == (address in inside), address
        assert selects(rule(source=[network]), packet(source=address)) == (address in inside), address


def test_neighbours_become_one_comparison() -> None:
    """10.0.0.0 to 10.0.0.127 in four pieces costs what one network does, and so do ports."""
    pieces = rule(destination=["10.0.0.0/27", "10.0.0.96/27", "10.0.0.32/27", "10.0.0.64/27", "10.0.0.5/32"])
    (one,), (four,) = programs([rule(destination=["10.0.0.0/25"])]), programs([pieces])
    assert one.instructions == four.instructions
    (one,), (four,) = programs([rule(ports=["80-90"])]), programs([rule(ports=["85-90", 81, "82-84", 80, 83, "84-86"])])
    assert one.instructions == four.instructions


# --- ports and protocols -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ports", "inside", "outside"),
    [
        (["1-65535"], [1, 80, 65535], [0]),
        (["1-1023"], [1, 1023], [0, 1024]),
        ([65535], [65535], [65534, 0]),
        ([1], [1], [0, 2]),
        ([80, 443, "8000-8100"], [80, 443, 8000, 8050, 8100], [79, 81, 442, 444, 7999, 8101]),
        (["100-200", "150-300", 301], [100, 200, 201, 300, 301], [99, 302]),
        (["100-300", "150-200"], [100, 150, 200, 201, 300], [99, 301]),
    ],
    ids=["all", "privileged", "last", "first", "several", "overlapping", "one within another"],
)
def test_ports(ports: list[int | str], inside: list[int], outside: list[int]) -> None:
    for port in (*inside, *outside):
        for skb in (ipv4(ports_of(9, port)), ipv6(ports_of(9, port), protocol=UDP)):
            assert selects(rule(ports=ports), skb) == (port in inside), port


def test_ports_without_protocol_mean_tcp_and_udp() -> None:
    for packet in (ipv4, ipv6):
        for protocol in (TCP, UDP, SCTP, 33, 136, ESP, ICMP, ICMPV6):
            assert selects(rule(ports=[443]), packet(protocol=protocol)) == (protocol in (TCP, UDP))
        assert selects(rule(ports=[443], protocols=[SCTP]), packet(protocol=SCTP))
        assert not selects(rule(ports=[443], protocols=[UDP]), packet(protocol=TCP))


def test_a_rule_keeps_its_protocols_beside_one_with_others() -> None:
    """Ports are read for SCTP as well here: the first rule must not take them."""
    rules = [rule(A, ports=[443]), rule(B, ports=[443], protocols=[SCTP]), rule(C, ports=["1-65535"], protocols=[UDP])]
    assert [class_of(rules, ipv4(protocol=p)) for p in (TCP, UDP, SCTP)] == [int(A), int(A), int(B)]
    assert class_of(rules, ipv4(ports_of(1, 2), protocol=UDP)) == int(C)
    assert class_of(rules, ipv4(ports_of(1, 2), protocol=TCP)) == 0


def test_ports_of_protocols_that_have_none_match_nothing() -> None:
    assert programs([rule(ports=[443], protocols=[ICMP])]) == ()
    (program,) = programs([rule(ports=[443], protocols=[ICMP]), rule(B, protocols=[ICMP])])
    assert program.rules == (rule(B, protocols=[ICMP]),)


# --- headers of every kind -----------------------------------------------------------------------------------------------

HTTPS, ANY_TCP = rule(ports=[443]), rule(protocols=[TCP])
EIGHT = [extension(DESTINATION_OPTIONS, i % 3) for i in range(8)]


@pytest.mark.parametrize(
    ("skb", "protocol", "port"),
    [
        pytest.param(ipv4(), True, True, id="IPv4"),
        pytest.param(ipv4(options=bytes(4)), True, True, id="IPv4, 4 bytes of options"),
        pytest.param(ipv4(options=bytes(40)), True, True, id="IPv4, 40 bytes of options"),
        pytest.param(ipv4(ports_of(1, 80), options=ports_of(1, 443)), True, False, id="IPv4, options that look like ports"),
        pytest.param(ipv4(fragment=0x4000), True, True, id="IPv4, do not fragment"),
        pytest.param(ipv4(fragment=0x2000), True, True, id="IPv4, first fragment"),
        pytest.param(ipv4(fragment=0x2001), True, False, id="IPv4, second fragment"),
        pytest.param(ipv4(fragment=0x1FFF), True, False, id="IPv4, last fragment"),
        pytest.param(ipv4(header_words=4, destination="10.2.1.187"), True, False, id="IPv4, header length 16, 443 in the address"),
        pytest.param(ipv4(bytes(423), header_words=0), True, False, id="IPv4, header length 0, 443 in the total length"),
        pytest.param(ipv6(), True, True, id="IPv6"),
        pytest.param(ipv6(headers=[extension(HOP_BY_HOP)]), True, True, id="hop-by-hop"),
        pytest.param(ipv6(headers=[extension(HOP_BY_HOP, 255)]), True, True, id="hop-by-hop, 2,048 bytes"),
        pytest.param(ipv6(headers=[extension(ROUTING, 2)]), True, True, id="routing"),
        pytest.param(ipv6(headers=[extension(DESTINATION_OPTIONS, 1)]), True, True, id="destination options"),
        pytest.param(ipv6(headers=[extension(AUTHENTICATION, 4)]), True, True, id="AH, 24 bytes"),
        pytest.param(ipv6(headers=[extension(AUTHENTICATION, 1), extension(DESTINATION_OPTIONS)]), True, True, id="AH, 12 bytes, then options"),
        pytest.param(ipv6(headers=[extension(135, 1)]), True, True, id="mobility"),
        pytest.param(ipv6(headers=[extension(139, 3)]), True, True, id="HIP"),
        pytest.param(ipv6(headers=[extension(140)]), True, True, id="shim6"),
        pytest.param(ipv6(headers=[fragment_header(0)]), True, True, id="IPv6, first fragment"),
        pytest.param(ipv6(headers=[fragment_header(0, more=False)]), True, True, id="IPv6, atomic fragment"),
        pytest.param(ipv6(headers=[fragment_header(1)]), True, False, id="IPv6, second fragment"),
        pytest.param(ipv6(headers=[fragment_header(0x1FFF, more=False)]), True, False, id="IPv6, last fragment"),
        pytest.param(ipv6(headers=[fragment_header(9), extension(DESTINATION_OPTIONS)]), False, False, id="second fragment of options"),
        pytest.param(ipv6(headers=[extension(HOP_BY_HOP), extension(DESTINATION_OPTIONS), extension(ROUTING, 2), fragment_header(0), extension(AUTHENTICATION, 4), extension(DESTINATION_OPTIONS)]), True, True, id="the six of RFC 8200"),
        pytest.param(ipv6(headers=EIGHT), True, True, id="eight extension headers"),
        pytest.param(ipv6(headers=[*EIGHT, extension(DESTINATION_OPTIONS)]), False, False, id="nine extension headers"),
        pytest.param(ipv6(headers=[extension(ESP)]), False, False, id="ESP ends the walk"),
        pytest.param(ipv6(protocol=NO_NEXT), False, False, id="no next header"),
        pytest.param(ipv6(b"", headers=[extension(DESTINATION_OPTIONS, 200)]), True, False, id="nothing behind the options"),
        pytest.param(replace(ipv6(), network=ipv6(headers=[extension(HOP_BY_HOP)]).network[:47]), False, False, id="options cut short"),
        pytest.param(replace(ipv6(), network=ipv6(headers=[fragment_header(0)]).network[:47]), False, False, id="fragment header cut short"),
    ],
)  # fmt: skip
def test_protocol_and_port_are_found_behind(skb: Skb, protocol: bool, port: bool) -> None:
    assert (selects(ANY_TCP, skb), selects(HTTPS, skb)) == (protocol, port)
    udp = rule(protocols=[UDP], ports=[443])
    assert not selects(udp, skb)


def test_an_extension_header_is_never_the_protocol() -> None:
    """Not even where the walk ends at one: behind eight others, and in a fragment that is not the first."""
    options = rule(protocols=[DESTINATION_OPTIONS])
    assert not selects(options, ipv6(headers=[extension(DESTINATION_OPTIONS)]))
    assert not selects(options, ipv6(headers=[*EIGHT, extension(DESTINATION_OPTIONS)]))
    assert not selects(options, ipv6(headers=[fragment_header(9), extension(DESTINATION_OPTIONS)]))
    assert selects(options, ipv4(protocol=DESTINATION_OPTIONS)), "IPv4 has none"


def test_esp_is_a_protocol_of_its_own() -> None:
    assert selects(rule(protocols=[ESP]), ipv6(headers=[extension(HOP_BY_HOP)], protocol=ESP))


@pytest.mark.parametrize("protocol", [ARP, 0x8100, 0x8847, 0x0004, 0xFFFF], ids=hex)
def test_what_is_not_ip_meets_only_rules_without_ip(protocol: int) -> None:
    skb = replace(ipv4(mark=7), protocol=protocol)
    for criteria in ({"destination": ["0.0.0.0/0", "::/0"]}, {"protocols": list(range(256))}, {"ports": ["1-65535"]}):
        assert not selects(rule(**criteria), skb)
        assert selects(rule(), skb)
        assert selects(rule(mark=Mark(7, 0xFF)), skb)


# --- marks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "matches", "others"),
    [
        (Mark(0x1000, 0x3000), [0x1000, 0xFFFFDFFF], [0x3000, 0x0, 0x2000]),
        (Mark(0xFF000000, 0xFF000000), [0xFF000000, 0xFF004080], [0x7F000000, 0]),
        (Mark(0x80000001, 0xFFFFFFFF), [0x80000001], [0x80000000, 1]),
        (Mark(0, 0xFFFFFFFF), [0], [1, 0x80000000]),
        (Mark(0, 0), [0, 0xFFFFFFFF], []),
    ],
    ids=str,
)
def test_a_mark_under_its_mask(mark: Mark, matches: list[int], others: list[int]) -> None:
    for value in (*matches, *others):
        assert selects(rule(mark=mark), ipv4(mark=value)) == (value in matches)
        assert selects(rule(mark=mark, ports=[443]), ipv6(mark=value)) == (value in matches)


# --- order, and packets cut short ----------------------------------------------------------------------------------------


def test_the_first_rule_wins() -> None:
    broad, narrow = rule(A, destination=["10.0.0.0/8"]), rule(B, destination=["10.2.0.0/16"], ports=[443])
    assert class_of([narrow, broad], ipv4()) == int(B)
    assert class_of([broad, narrow], ipv4()) == int(A)
    assert class_of([rule(C, ports=[1]), narrow, broad], ipv4(ports_of(1, 80))) == int(A)


CUTS = [
    rule(A, destination=["10.2.0.0/16"], ports=[443]),
    rule(B, destination=["10.2.0.0/16", "fd00:2::/32"], protocols=[TCP]),
    rule(C),
]
WHOLE = [ipv4(), ipv4(options=bytes(8)), ipv6(), ipv6(headers=[extension(HOP_BY_HOP), extension(AUTHENTICATION, 4)])]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)], ids=["port first", "network first"])
@pytest.mark.parametrize("link", [(1, 14), (772, 14), (65534, 0)], ids=["ethernet", "loopback", "tun"])
def test_a_packet_cut_short_meets_the_rules_that_need_less(order: tuple[int, ...], link: tuple[int, int]) -> None:
    """Whatever is missing, the rules that can do without are tried, before and behind the one that cannot."""
    rules = [CUTS[i] for i in order]
    kind, header = link
    for whole in WHOLE:
        for size in range(len(whole.network) + 1):
            skb = replace(whole, network=whole.network[:size], device_type=kind, link_header=header)
            assert class_of(rules, skb) == verdict(rules, skb), size


def test_on_a_link_with_a_header_that_is_not_known_a_cut_costs_only_the_match() -> None:
    """The load behind the end says "no match", which is the default class; whole packets are found as anywhere."""
    skb = replace(ipv4(), device_type=512, link_header=4)
    assert class_of(CUTS, skb) == int(A)
    assert class_of(CUTS, replace(skb, network=skb.network[:22])) == 0


# --- received packets ----------------------------------------------------------------------------------------------------


def test_received_packets_come_from_the_other_end() -> None:
    web = rule(source=["10.1.0.0/16", "fd00:1::/32"], destination=["10.2.0.0/16", "fd00:2::/32"], ports=[443])
    for answer in (
        ipv4(ports_of(443, 40000), source="10.2.0.1", destination="10.1.0.1"),
        ipv6(ports_of(443, 40000), source="fd00:2::1", destination="fd00:1::1"),
    ):
        assert selects(web, answer, mirrored=True)
        assert not selects(web, answer)
    for request in (ipv4(), ipv6()):
        assert selects(web, request)
        assert not selects(web, request, mirrored=True)


# --- any rules, any packets ----------------------------------------------------------------------------------------------

_V4 = st.sampled_from([0x0A010001, 0x0A020001, 0x0A0200FF, 0x0A030000, 0, 0xFFFFFFFF, 0x80000000])
_V6 = st.sampled_from(
    [0xFD000001 << 96 | 1, 0xFD000002 << 96 | 1 << 64 | 1, 0xFD000002 << 96, 0, (1 << 128) - 1, 0xFFFF0A020001]
)
_NETWORKS = st.lists(
    st.one_of(
        st.builds(lambda a, p: ipaddress.ip_network((a >> 32 - p << 32 - p, p)), _V4, st.integers(0, 32)),
        st.builds(lambda a, p: ipaddress.IPv6Network((a >> 128 - p << 128 - p, p)), _V6, st.integers(0, 128)),
    ),
    max_size=4,
).map(tuple)
_PORT = st.sampled_from([1, 2, 79, 80, 81, 443, 8080, 65534, 65535])
_RANGES = st.lists(st.tuples(_PORT, _PORT).map(lambda pair: PortRange(min(pair), max(pair))), max_size=4).map(tuple)
_PROTOCOLS = st.sampled_from([TCP, UDP, SCTP, ICMP, ICMPV6, ESP, 0, 44, 60, 255])
_MARKS = st.sampled_from([Mark(0, 0), Mark(1, 1), Mark(0x80000000, 0xFF000000), Mark(5, 0xFFFFFFFF)])
_RULES = st.lists(
    st.builds(
        PacketRule,
        target=st.sampled_from([A, B, C]),
        source=_NETWORKS,
        destination=_NETWORKS,
        protocols=st.lists(_PROTOCOLS, max_size=3).map(tuple),
        ports=_RANGES,
        source_ports=_RANGES,
        mark=st.none() | _MARKS,
    ),
    max_size=5,
)  # fmt: skip
_EXTENSIONS = st.lists(
    st.one_of(
        st.builds(extension, st.sampled_from([0, 43, 60, 51, 135, 139, 140]), st.integers(0, 3)),
        st.builds(fragment_header, st.sampled_from([0, 0, 1, 0x1FFF])),
    ),
    max_size=9,
)
_PAYLOADS = st.builds(ports_of, st.just(0) | _PORT, st.just(0) | _PORT)
_MARK_VALUES = st.sampled_from([0, 1, 5, 0x80000000, 0x80000005, 0xFFFFFFFF])
_SKBS = st.one_of(
    st.builds(
        ipv4, _PAYLOADS, protocol=_PROTOCOLS, source=_V4.map(lambda a: str(ipaddress.IPv4Address(a))),
        destination=_V4.map(lambda a: str(ipaddress.IPv4Address(a))), options=st.sampled_from([b"", bytes(4), bytes(40)]),
        fragment=st.sampled_from([0, 0, 0x4000, 0x2000, 0x2001, 0x1FFF]), mark=_MARK_VALUES,
    ),
    st.builds(
        ipv6, _PAYLOADS, protocol=_PROTOCOLS, source=_V6.map(lambda a: str(ipaddress.IPv6Address(a))),
        destination=_V6.map(lambda a: str(ipaddress.IPv6Address(a))), headers=_EXTENSIONS, mark=_MARK_VALUES,
    ),
)  # fmt: skip


@settings(max_examples=80)
@given(_RULES, st.lists(_SKBS, min_size=1, max_size=8), st.data(), st.booleans())
def test_a_program_means_what_its_rules_mean(
    rules: list[PacketRule], skbs: list[Skb], data: st.DataObject, mirrored: bool
) -> None:
    compiled = programs(rules, mirrored=mirrored)
    for program in compiled:
        check(program.instructions)
    for whole in skbs:
        cut = data.draw(st.just(len(whole.network)) | st.integers(0, len(whole.network)))
        skb = replace(whole, network=whole.network[:cut])
        found = next((r for p in compiled if (r := run(p.instructions, skb))), 0)
        assert found == verdict(rules, skb, mirrored=mirrored)


@settings(max_examples=40)
@given(_RULES, st.binary(max_size=120), st.sampled_from([0x0800, IPV6, ARP]))
def test_garbage_gets_the_class_that_the_rules_say(rules: list[PacketRule], data: bytes, protocol: int) -> None:
    skb = Skb(data, protocol)
    assert class_of(rules, skb) == verdict(rules, skb)


# --- size ----------------------------------------------------------------------------------------------------------------


def many(count: int, target: Handle = A, *, step: int = 512, **criteria: Sequence[int]) -> PacketRule:
    """A rule with ``count`` networks, none of which touch: 10.0.0.0/24 and so on."""
    networks = tuple(ipaddress.IPv4Network((0x0A000000 + i * step, 24)) for i in range(count))
    return replace(rule(target, **criteria), destination=networks)


def test_far_jumps_reach_their_aim() -> None:
    """Any of 900 networks, in any order of the rules: hits and misses are much more than 255 instructions away."""
    rules = [many(900, A, ports=[443]), rule(B, ports=[80]), rule(C, destination=["10.0.0.0/8"])]
    (program,) = programs(rules)
    check(program.instructions)
    assert len(program.instructions) > 2000
    for i in (0, 1, 449, 450, 451, 898, 899):
        at = str(ipaddress.IPv4Address(0x0A000000 + i * 512 + 7))
        beside = str(ipaddress.IPv4Address(0x0A000000 + i * 512 + 256))
        assert run(program.instructions, ipv4(destination=at)) == int(A)
        assert run(program.instructions, ipv4(destination=beside)) == int(C)
        assert run(program.instructions, ipv4(ports_of(1, 80), destination=at)) == int(B)


def test_many_rules_are_spread_over_programs_in_order() -> None:
    rules = [rule(Handle(1, 1 + i), destination=[f"10.{i >> 8}.{i & 255}.0/24"], ports=[443]) for i in range(1000)]
    rules.append(rule(Handle(1, 0xFFF), destination=["10.0.0.0/8"]))
    made = programs(rules)
    assert len(made) > 1
    assert [r for p in made for r in p.rules] == rules
    assert all(len(p.instructions) <= MAX_INSTRUCTIONS for p in made)
    for i in (0, 1, len(made[0].rules) - 1, len(made[0].rules), 999):
        skb = ipv4(destination=f"10.{i >> 8}.{i & 255}.9")
        assert next(r for p in made if (r := run(p.instructions, skb))) == 1 << 16 | 1 + i
    skb = ipv4(ports_of(1, 80), destination="10.0.0.9")
    assert next(r for p in made if (r := run(p.instructions, skb))) == 0x10FFF


def test_a_rule_too_large_for_a_program_is_split_exactly() -> None:
    """2,000 networks and 400 ports: every part has all of the other criteria."""
    large = replace(many(2000), ports=tuple(PortRange(p, p) for p in range(1000, 1800, 2)))
    made = programs([rule(B, ports=[999]), large, rule(C)])
    assert len(made) > 2
    assert {r.target for p in made for r in p.rules} == {A, B, C}
    for i, port, expected in (
        (0, 1000, A),
        (1999, 1798, A),
        (1000, 1500, A),
        (1000, 1501, C),
        (2000, 1500, C),
        (5, 999, B),
    ):
        skb = ipv4(ports_of(1, port), destination=str(ipaddress.IPv4Address(0x0A000000 + i * 512 + 255)))
        found = next(r for p in made if (r := run(p.instructions, skb)))
        assert found == int(expected) == verdict([rule(B, ports=[999]), large, rule(C)], skb)


def test_more_than_all_programs_hold_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_program, "MAX_PROGRAMS", 1)
    assert len(programs([many(1000)])) == 1
    with pytest.raises(PodlaneError, match=r"^1 rules need more than 1 programs of 3900 .* Write larger networks"):
        programs([many(1500)])


def test_what_no_packet_reaches_is_left_out() -> None:
    before, after = rule(A, ports=[443]), rule(C, ports=[80])
    (program,) = programs([before, rule(B, mark=Mark(0, 0)), after])
    assert program.rules == (before, rule(B, mark=Mark(0, 0)))
    assert programs([]) == ()


def test_only_what_the_rules_need_is_read() -> None:
    """By a mark alone it is five instructions; no extension header is walked for a network."""
    assert len(programs([rule(mark=Mark(1, 1))])[0].instructions) == 5
    assert len(programs([rule(destination=["fd00::/8"])])[0].instructions) < 25


# --- filters, assembler, refusals ----------------------------------------------------------------------------------------


def test_filters_carry_the_programs_at_successive_priorities() -> None:
    rules = [many(1500, B), rule(C)]
    made = filters(rules, Handle(1), mirrored=True)
    for i, (found, program) in enumerate(zip(made, programs(rules, mirrored=True), strict=True)):
        assert (found.parent, found.prio, found.handle) == (Handle(1), PACKET_PRIO + i, 1)
        assert (found.instructions, found.rules) == (program.instructions, program.rules)
        assert found.fingerprint == fingerprint(classic_bytes(program.instructions))
        assert found.text == classic_text(program.instructions)
        assert found.class_ids is None
    assert len({f.fingerprint for f in made}) == len(made) == 2
    assert filters([], Handle(1)) == ()


@pytest.mark.parametrize("gap", [0, 252, 253, 254, 255, 256, 300])
@pytest.mark.parametrize("far", ["yes", "no", "both", "neither"])
def test_a_jump_reaches_any_distance(gap: int, far: str) -> None:
    code = Assembler()
    yes, no = Label(), Label()
    code.op(LD_LENGTH)
    code.jump(IF_EQUAL, 34, yes if far in ("yes", "both") else None, no if far in ("no", "both") else None)
    code.op(RETURN, 1)
    for _ in range(gap):
        code.op(LD_IMMEDIATE)
    code.place(yes)
    code.op(RETURN, 2)
    code.place(no)
    code.op(RETURN, 3)
    program = code.assemble()
    check(program)
    hit, miss = (run(program, Skb(bytes(size), 0)) for size in (20, 21))
    assert hit == (2 if far in ("yes", "both") else 1)
    assert miss == (3 if far in ("no", "both") else 1)


def test_a_jump_backwards_is_refused() -> None:
    code = Assembler()
    start = Label()
    code.place(start)
    code.jump(IF_AT_LEAST, 0, yes=start)
    with pytest.raises(KeyError):
        code.assemble()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": Handle(1)}, "not the handle of a class"),
        ({"target": Handle(0, 1)}, "not the handle of a class"),
        ({"target": ROOT}, "not the handle of a class"),
        ({"protocols": (256,)}, "not an IP protocol"),
        ({"protocols": (-1,)}, "not an IP protocol"),
        ({"ports": (PortRange(0, 5),)}, "not a range of ports"),
        ({"ports": (PortRange(9, 5),)}, "not a range of ports"),
        ({"ports": (PortRange(9, 65536),)}, "not a range of ports"),
    ],
    ids=str,
)
def test_impossible_rules_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PacketRule(**{"target": A, **arguments})  # type: ignore[arg-type]
