"""The kernel's walk and the proxy's table are two writings of one policy: they must agree on every packet.

A small evaluator follows a packet through the rules as the kernel does (iptables(8): TARGETS, and -g); the proxy's side
is RoutingTable. Policies and packets are random, drawn from small pools so that they meet often.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruleset_walk import Packet, answer, arrival, captured, has, output, walk

from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD, MeshProxy
from datapath.netfilter.rules import ConntrackDirection, Family, FamilyRules
from datapath.netfilter.ruleset import CaptureSettings, Ruleset, build_ruleset
from datapath.routing.flow import Address, Content, Destination, parse_address
from datapath.routing.table import RoutingTable
from datapath.stepaside.marks import SHOWN
from traffic_policy.marks import DIVERT, OWN, ClassIds, class_id_of, class_mark
from traffic_policy.policy import DEFAULT_CLASS, Bound, PortRange, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath

TCP, UDP, ICMP = TransportProtocol

# --- random policies against random packets ------------------------------------------------------------------------

PORT_POOL = [22, 25, 53, 80, 443, 3306, 8000, 8001, 8080]
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "2001:db8:1::/48", "fd00::/8"]
SOURCES = ["172.16.0.0/12", "172.16.1.0/24", "0.0.0.0/0", "2001:db8:5::/48", "2001:db8:5::1"]
CLIENTS = {4: ["172.16.1.1", "172.31.0.9", "198.51.100.1"], 6: ["2001:db8:5::1", "2001:db8:5::2", "fd00::9"]}
ADDRESSES = [
    "10.1.2.3",
    "10.9.9.9",
    "192.0.2.7",
    "203.0.113.1",
    "2001:db8::1",
    "2001:db8:1::1",
    "fd00::1",
    "2001:dead::1",
]

port_criteria = st.lists(
    st.one_of(st.sampled_from(PORT_POOL), st.sampled_from(["20-30", "8000-8100", "1-65535", "79-81"])),
    max_size=4,
    unique=True,
)
match_documents = st.builds(
    lambda content, port, cidr, source, protocol, direction: {
        **content,
        "port": port,
        "cidr": cidr,
        "source": source,
        "protocol": protocol,
        "direction": direction,
    },
    st.sampled_from([{}, {}, {"sni": ["a.example"]}, {"host": ["b.example"]}, {"alpn": ["h2"]}]),
    port_criteria,
    st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True),
    st.one_of(st.just([]), st.lists(st.sampled_from(SOURCES), max_size=2, unique=True)),
    st.sampled_from([[], [], ["tcp"], ["udp"], ["tcp", "udp"], ["icmp"], ["tcp", "icmp"]]),
    st.sampled_from(["outbound", "outbound", "inbound", "both"]),
)
policies = st.builds(
    lambda classes, quic: TrafficPolicy.model_validate(
        {
            "total": "1Gbit",
            "classes": [{"name": f"c{i}", "rate": "8kbit", "match": m} for i, m in enumerate(classes)],
            "quic": quic,
        }
    ),
    st.lists(st.lists(match_documents, min_size=1, max_size=3), max_size=6),
    st.sampled_from(["classify", "classify", "block"]),
)
silences = st.sampled_from([(), (25, 53, 3306), tuple(range(1, 60, 2))])
exclusions = st.builds(
    lambda ports, networks: CaptureSettings(
        exclude_outbound_ports=tuple(PortRange.parse(p) for p in ports),
        exclude_outbound_cidrs=tuple(ipaddress.ip_network(n) for n in networks),
        exclude_inbound_ports=tuple(PortRange.parse(p) for p in ports),
        exclude_inbound_cidrs=tuple(ipaddress.ip_network(n) for n in SOURCES if networks and not n.startswith("0")),
    ),
    port_criteria,
    st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True),
)


def _flows(address: str, port: int, protocol: TransportProtocol) -> st.SearchStrategy[Flow]:
    destination = Destination.parse(address, port if protocol.has_ports else 0, protocol)
    return st.sampled_from(CLIENTS[destination.address.version]).map(lambda s: (parse_address(s), destination))


Flow = tuple[Address, Destination]
flows = st.tuples(
    st.sampled_from(ADDRESSES),
    st.sampled_from([*PORT_POOL, 1, 27, 8050, 65535]),
    st.sampled_from([TCP, TCP, UDP, ICMP]),
).flatmap(lambda drawn: _flows(*drawn))


def first_packet(flow: Flow) -> Packet:
    """Of UDP, one that begins a QUIC connection."""
    source, target = flow
    tcp, udp = target.protocol is TCP, target.protocol is UDP
    return Packet(target.address, target.protocol, target.port, syn=tcp, source=source, quic_initial=udp)


def excluded(target: Destination, capture: CaptureSettings) -> bool:
    """What the two settings mean, without any rule."""
    by_port = target.protocol.has_ports and any(target.port in ports for ports in capture.exclude_outbound_ports)
    return by_port or any(target.address in network for network in capture.exclude_outbound_cidrs)


def excluded_inbound(source: Address, target: Destination, capture: CaptureSettings) -> bool:
    """The same of the two for what clients open."""
    by_port = target.protocol.has_ports and any(target.port in ports for ports in capture.exclude_inbound_ports)
    return by_port or any(source in network for network in capture.exclude_inbound_cidrs)


over_all_there_can_be = given(
    policies,
    silences,
    st.one_of(st.just(CaptureSettings()), exclusions),
    st.lists(flows, min_size=1, max_size=12),
    st.booleans(),
)


def written_twice(
    policy: TrafficPolicy, silent: tuple[int, ...], capture: CaptureSettings, *, running: bool
) -> tuple[Ruleset, RoutingTable, ClassIds]:
    """A policy as the kernel's rules and as the proxy's table."""
    ids = ClassIds.assign(c.name for c in policy.classes)
    rules = build_ruleset(policy, ids, replace(capture, silent_ports=silent), capture=running)
    return rules, RoutingTable.from_policy(policy, silent, capture.mesh), ids


@settings(max_examples=70)
@over_all_there_can_be
def test_the_kernel_decides_what_the_table_decides(
    policy: TrafficPolicy, silent: tuple[int, ...], capture: CaptureSettings, drawn: list[Flow], running: bool
) -> None:
    rules, table, ids = written_twice(policy, silent, capture, running=running)
    for source, target in drawn:
        packet = output(rules.for_family(Family(target.address.version)), first_packet((source, target)))
        excluded_matches = excluded(target, capture)
        looked_at = running and not excluded_matches
        assert packet.dropped == (looked_at and table.refuses_quic(target, source=source))
        undecided = looked_at and table.undecided(target, source=source)
        assert captured(packet) == (undecided and target.protocol is not UDP)
        assert has(packet.connmark, DIVERT) == captured(packet)
        assert (packet.queue is not None) == has(packet.connmark, SHOWN) == (undecided and target.protocol is UDP)
        if excluded_matches:
            assert packet.mark == 0
        if undecided or excluded_matches or packet.dropped:
            continue
        # By content nobody can tell here, so the table goes by what the kernel sees too.
        name = table.route(target, source=source).class_name
        assert class_id_of(packet.mark) == (0 if name == DEFAULT_CLASS else ids[name])


@settings(max_examples=35)
@given(policies, st.lists(flows, min_size=1, max_size=8))
def test_later_packets_of_a_connection_get_the_class_of_its_first(policy: TrafficPolicy, drawn: list[Flow]) -> None:
    rules = build_ruleset(policy, ClassIds.assign(c.name for c in policy.classes), CaptureSettings())
    for flow in drawn:
        family = rules.for_family(Family(flow[0].version))
        first = output(family, first_packet(flow))
        later = output(family, replace(first, syn=False, mark=0))
        assert captured(later) == captured(first)
        assert later.queue == first.queue
        if not captured(first):
            assert class_id_of(later.mark) == class_id_of(first.mark)


@settings(max_examples=70)
@over_all_there_can_be
def test_of_what_clients_open_the_kernel_decides_what_the_table_decides(
    policy: TrafficPolicy, silent: tuple[int, ...], capture: CaptureSettings, drawn: list[Flow], running: bool
) -> None:
    rules, table, ids = written_twice(policy, silent, capture, running=running)
    for source, target in drawn:
        inbound = replace(target, bound=Bound.INBOUND)
        family = rules.for_family(Family(target.address.version))
        packet = arrival(family, first_packet((source, target)))
        excluded_matches = excluded_inbound(source, target, capture)
        taken = table.undecided(inbound, source=source) and running and not excluded_matches
        udp = target.protocol is UDP
        assert (packet.tproxy is not None) == (taken and not udp) == has(packet.connmark, DIVERT)
        assert (packet.queue is not None) == (taken and udp) == has(packet.connmark, SHOWN)
        assert not packet.dropped
        later = arrival(family, replace(packet, syn=False, tproxy=None, queue=None))
        assert (later.tproxy is not None, later.queue is not None) == (taken and not udp, taken and udp)
        if taken:
            continue  # the proxy answers, under a mark of its own, or the classifier decides
        name = DEFAULT_CLASS if excluded_matches else table.route(inbound, source=source).class_name
        assert class_id_of(output(family, answer(packet)).mark) == (0 if name == DEFAULT_CLASS else ids[name])


MESHES = [ISTIO, ISTIO_AMBIENT, LINKERD]


def of_the_mesh(packet: Packet, mesh: MeshProxy) -> Packet:
    """The packet as the mesh's proxy sends it."""
    mark = mesh.mark.value if mesh.mark is not None else 0
    return replace(packet, user=mesh.user or 0, group=mesh.group or 0, mark=packet.mark | mark)


@settings(max_examples=40)
@given(policies, silences, st.sampled_from(MESHES), st.lists(flows, min_size=1, max_size=12), st.booleans())
def test_beside_a_mesh_the_kernel_takes_what_the_table_wants_of_what_the_meshs_proxy_sends(
    policy: TrafficPolicy, silent: tuple[int, ...], mesh: MeshProxy, drawn: list[Flow], running: bool
) -> None:
    rules, table, ids = written_twice(policy, silent, CaptureSettings(mesh=mesh), running=running)
    without, *_ = written_twice(policy, silent, CaptureSettings(), running=running)
    for source, target in drawn:
        family = rules.for_family(Family(target.address.version))
        first = first_packet((source, target))
        if target.protocol is UDP:  # which a mesh leaves alone
            assert output(family, first) == output(without.for_family(family.family), first)
            continue
        assert not captured(output(family, first))
        assert not captured(output(family, replace(first, mark=OWN.value)))
        theirs = output(family, of_the_mesh(first_packet((source, target)), mesh))
        assert captured(theirs) == (table.undecided(target, source=source) and running)
        if captured(theirs):
            # Later packets may have lost their owner with their socket.
            assert captured(output(family, replace(theirs, syn=False, mark=0, user=0, group=0)))
            continue
        name = table.route(target, source=source).class_name
        assert class_id_of(theirs.mark) == (0 if name == DEFAULT_CLASS else ids[name])


@settings(max_examples=30)
@given(policies, st.lists(flows, min_size=1, max_size=8))
def test_beside_a_mesh_answers_have_the_class_of_the_port_that_the_client_meant(
    policy: TrafficPolicy, drawn: list[Flow]
) -> None:
    aside = CaptureSettings(datapath=Datapath.STEP_ASIDE, mesh=ISTIO)
    rules, table, ids = written_twice(policy, (), aside, running=True)
    for source, target in drawn:
        inbound = replace(target, bound=Bound.INBOUND)
        if table.undecided(inbound, source=source):
            continue
        packet = answer(first_packet((source, target)))
        redirected = replace(packet, source_port=15006 if target.protocol is TCP else packet.source_port)
        name = table.route(inbound, source=source).class_name
        marked = output(rules.for_family(Family(target.address.version)), redirected)
        assert class_id_of(marked.mark) == (0 if name == DEFAULT_CLASS else ids[name])


@pytest.mark.parametrize("port", [15000, 15008, 15012, 15021, 15090])
def test_names_decide_nothing_on_the_meshs_own_ports(port: int) -> None:
    named = TrafficPolicy.model_validate(
        {"total": "1Gbit", "classes": [{"name": "a", "rate": "8kbit", "match": [{"sni": "a.example", "port": port}]}]}
    )
    rules, table, _ = written_twice(named, (), CaptureSettings(mesh=ISTIO), running=True)
    target = Destination.parse("192.0.2.7", port)
    theirs = of_the_mesh(first_packet((HERE, target)), ISTIO)
    assert not captured(output(rules.for_family(Family.V4), theirs))
    assert table.route(target, Content(sni="a.example")).class_name == DEFAULT_CLASS


# --- single rules ---------------------------------------------------------------------------------------------------

EXAMPLE = TrafficPolicy.model_validate(
    {
        "total": "1Gbit",
        "classes": [
            {"name": "api", "rate": "8kbit", "match": [{"sni": "api.example.com"}, {"host": "h.example", "port": 25}]},
            {"name": "ssh", "rate": "8kbit", "match": [{"port": [22, 443]}, {"cidr": "10.0.0.0/8"}]},
        ],
    }
)
IDS = ClassIds.assign(["api", "ssh"])
SSH = class_mark(IDS["ssh"]).value
HERE = ipaddress.ip_address("203.0.113.1")
TEN = ipaddress.ip_address("10.0.0.1")


def example(capture: bool = True, **settings_: object) -> FamilyRules:
    return build_ruleset(EXAMPLE, IDS, CaptureSettings(**settings_), capture=capture).for_family(Family.V4)  # type: ignore[arg-type]


DIVERTED = DIVERT.value
CASES = {
    "a SYN that content may decide": (Packet(HERE, port=9999), DIVERTED, DIVERTED),
    "a SYN whose port has a class too": (Packet(HERE, port=443), DIVERTED | SSH, DIVERTED),
    "the proxy's own SYN keeps its class": (Packet(HERE, mark=OWN.value | 0x7000000), OWN.value | 0x7000000, 0),
    "what stays on lo": (Packet(HERE, out_interface="lo"), 0, 0),
    "a reply of an inbound connection": (Packet(HERE, port=22, syn=False, direction=ConntrackDirection.REPLY), 0, 0),
    "a SYN-ACK of an inbound connection": (
        Packet(HERE, port=9999, syn=False, direction=ConntrackDirection.REPLY),
        0,
        0,
    ),
    "a later packet of a captured connection": (Packet(HERE, syn=False, connmark=DIVERTED), DIVERTED, DIVERTED),
    "an old connection from before": (Packet(HERE, port=22, syn=False), SSH, 0),
    "an old connection that would be captured now": (Packet(HERE, port=9999, syn=False), 0, 0),
    "a silent port that no content match names": (Packet(HERE, port=3306), 0, 0),
    "a silent port that one names": (Packet(HERE, port=25), DIVERTED, DIVERTED),
    "an untracked SYN is not captured": (Packet(HERE, port=9999, connmark=None, direction=None), 0, None),
    "an untracked UDP packet has its class": (
        Packet(HERE, UDP, 22, syn=False, connmark=None, direction=None),
        SSH,
        None,
    ),
    "ICMP goes by network": (Packet(TEN, None, 0, syn=False), SSH, 0),
    "others' bits stay": (Packet(HERE, UDP, 22, syn=False, mark=0x4C0FFF, connmark=0x80), SSH | 0x4C0FFF, 0x80),
}


@pytest.mark.parametrize("case", CASES)
def test_what_happens_to(case: str) -> None:
    packet, mark, connmark = CASES[case]
    done = output(example(), replace(packet))
    assert (done.mark, done.connmark) == (mark, connmark)


def test_a_reused_tuple_starts_clean() -> None:
    stale = Packet(HERE, port=22, connmark=DIVERTED | 0x80)
    draining = output(example(capture=False), stale)
    assert (draining.mark, draining.connmark) == (SSH, 0x80)


EXCLUDED = {
    "a port that content may decide": Packet(HERE, port=25),
    "a port that has a class": Packet(HERE, port=443),
    "a port inside a range": Packet(HERE, port=9050),
    "UDP to such a port": Packet(HERE, UDP, 443, syn=False),
    "a network": Packet(TEN, port=9999),
    "ICMP into a network": Packet(TEN, None, 0, syn=False),
    "a reused tuple that was captured": Packet(TEN, port=9999, connmark=DIVERTED),
    "an untracked connection": Packet(TEN, port=22, connmark=None, direction=None),
}


def excluding(datapath: Datapath = Datapath.RELAY) -> FamilyRules:
    ports = tuple(PortRange.parse(p) for p in (25, 443, "9000-9100"))
    return example(
        exclude_outbound_ports=ports, exclude_outbound_cidrs=(ipaddress.ip_network("10.0.0.0/8"),), datapath=datapath
    )


@pytest.mark.parametrize("datapath", Datapath, ids=str)
@pytest.mark.parametrize("case", EXCLUDED)
def test_what_is_excluded_is_neither_captured_nor_in_a_class(case: str, datapath: Datapath) -> None:
    packet = EXCLUDED[case]
    done = output(excluding(datapath), replace(packet))
    assert (done.mark, done.queue) == (0, None)
    assert not done.connmark
    assert output(example(datapath=datapath), replace(packet)) != done


def test_what_is_not_excluded_is_as_ever() -> None:
    assert captured(output(excluding(), Packet(HERE, port=9999)))
    assert output(excluding(), Packet(HERE, port=22, syn=False)).mark == SSH


def test_excluding_something_cuts_no_connection_that_is_captured() -> None:
    assert captured(output(excluding(), Packet(TEN, port=9999, syn=False, connmark=DIVERTED)))


def test_with_an_interface_only_what_leaves_by_it_is_touched() -> None:
    rules = example(interface="eth0")
    assert captured(output(rules, Packet(HERE)))
    assert output(rules, Packet(HERE, out_interface="eth1")).mark == 0


def test_link_local_addresses_are_not_captured() -> None:
    rules = build_ruleset(EXAMPLE, IDS, CaptureSettings()).for_family(Family.V6)
    assert not captured(output(rules, Packet(ipaddress.ip_address("fe80::1"), port=9999)))
    assert captured(output(rules, Packet(ipaddress.ip_address("2001:db8::1"), port=9999)))


@pytest.mark.parametrize(
    ("direction", "mark", "handed_over"),
    [
        (ConntrackDirection.ORIGINAL, DIVERTED, True),
        (ConntrackDirection.REPLY, DIVERTED, False),
        (ConntrackDirection.ORIGINAL, 0, False),
        (ConntrackDirection.ORIGINAL, DIVERTED | OWN.value, False),
    ],
    ids=["captured", "a reply with an inherited mark", "not marked", "the proxy's own"],
)
def test_prerouting_hands_over(direction: ConntrackDirection, mark: int, handed_over: bool) -> None:
    packet = Packet(HERE, mark=mark, direction=direction, in_interface="lo")
    walk(example(), "PODLANE-PRE", packet)
    assert (packet.tproxy is not None) == handed_over


# --- connections that clients open ------------------------------------------------------------------------------------

WEB = TrafficPolicy.model_validate(
    {
        "total": "1Gbit",
        "classes": [
            {"name": "api", "rate": "8kbit", "match": [{"host": "api.example.com", "direction": "inbound"}]},
            {"name": "ssh", "rate": "8kbit", "match": [{"port": 22, "direction": "inbound"}]},
            {"name": "out", "rate": "8kbit", "match": [{"port": 443}]},
        ],
    }
)
CLIENT = ipaddress.ip_address("198.51.100.7")


def serving(family: Family = Family.V4, *, capture: bool = True, **settings_: object) -> FamilyRules:
    ids = ClassIds.assign(c.name for c in WEB.classes)
    return build_ruleset(WEB, ids, CaptureSettings(**settings_), capture=capture).for_family(family)  # type: ignore[arg-type]


def opened(port: int = 8080, **about: object) -> Packet:
    return Packet(HERE, port=port, source=CLIENT, **about)  # type: ignore[arg-type]


ARRIVALS = {
    "a SYN that content may decide": (opened(), True),
    "a SYN whose port decides only after a name could": (opened(443), True),
    "a closed port": (opened(has_socket=False), False),
    "what is only forwarded": (opened(to_here=False), False),
    "what comes over lo": (opened(in_interface="lo"), False),
    "a silent port": (opened(3306), False),
    "UDP": (opened(protocol=UDP, syn=False), False),
    "an answer to what we opened": (opened(syn=False, direction=ConntrackDirection.REPLY, connmark=DIVERTED), False),
    "an old connection from before": (opened(syn=False), False),
    "a captured connection": (opened(syn=False, connmark=DIVERTED), True),
    "a captured connection whose program has gone": (opened(syn=False, connmark=DIVERTED, has_socket=False), True),
    "an untracked SYN": (opened(connmark=None, direction=None), False),
}


@pytest.mark.parametrize("case", ARRIVALS)
def test_what_comes_in_is_captured(case: str) -> None:
    packet, taken = ARRIVALS[case]
    done = arrival(serving(), replace(packet))
    assert (done.tproxy is not None) == taken
    assert done.mark == 0, "the packet itself stays as it is"


def test_clients_with_link_local_addresses_are_not_captured() -> None:
    rules = serving(Family.V6)
    for client, taken in (("fe80::7", False), ("2001:db8::7", True)):
        packet = Packet(ipaddress.ip_address("2001:db8::1"), port=8080, source=ipaddress.ip_address(client))
        assert (arrival(rules, packet).tproxy is not None) == taken


def test_a_tuple_that_clients_use_again_starts_clean() -> None:
    stale = arrival(serving(), opened(has_socket=False, connmark=DIVERTED | 0x80))
    assert (stale.tproxy, stale.connmark) == (None, 0x80)


def test_with_an_interface_only_what_comes_in_by_it_is_captured() -> None:
    rules = serving(interface="eth0")
    assert arrival(rules, opened()).tproxy
    assert not arrival(rules, opened(in_interface="eth1")).tproxy


def test_what_the_proxy_answers_keeps_its_class() -> None:
    mark = OWN.value | 0x7000000
    assert output(serving(), replace(answer(opened(22)), mark=mark)).mark == mark


def test_what_we_open_is_not_asked_what_is_meant_for_answers() -> None:
    assert output(serving(), Packet(HERE, port=22)).mark == 0
    assert class_id_of(output(serving(), Packet(HERE, port=443)).mark) == 3


# --- marks and priorities that programs set ---------------------------------------------------------------------------

GROUP = 123456789
CLAIMED = 0x7000000
FORGED = [CLAIMED, CLAIMED | OWN.value, CLAIMED | 0x3000, OWN.value, DIVERTED]


def own(packet: Packet) -> Packet:
    """The packet as our own socket sends it."""
    return replace(packet, mark=OWN.value | CLAIMED, group=GROUP)


def orphaned(packet: Packet) -> Packet:
    return replace(packet, syn=False, mark=OWN.value | CLAIMED, user=None, group=None)


@pytest.mark.parametrize("datapath", Datapath)
@pytest.mark.parametrize("mark", FORGED, ids=hex)
@pytest.mark.parametrize("target", [(TCP, 22), (TCP, 3306), (TCP, 9999), (UDP, 22), (UDP, 9999), (ICMP, 0)])
@pytest.mark.parametrize("connmark", [0, DIVERTED, SHOWN.value, OWN.value, None])
def test_a_mark_and_a_priority_that_a_program_sets_change_nothing(
    datapath: Datapath, mark: int, target: tuple[TransportProtocol, int], connmark: int | None
) -> None:
    rules = example(own_group=GROUP, datapath=datapath)
    for syn in (True, False) if target[0] is TCP else (False,):
        plain = Packet(HERE, *target, syn=syn, connmark=connmark)
        forged = output(rules, replace(plain, mark=mark | 0x40, priority=0x10101))
        output(rules, plain)
        assert forged == replace(plain, mark=plain.mark | 0x40), "other bits are others'"


def test_our_own_sockets_keep_their_mark_with_and_without_an_owner() -> None:
    rules = example(own_group=GROUP)
    syn = output(rules, own(Packet(HERE)))
    assert (syn.mark, syn.connmark) == (OWN.value | CLAIMED, OWN.value)
    assert output(rules, replace(syn, syn=False)).mark == OWN.value | CLAIMED
    assert output(rules, orphaned(syn)).mark == OWN.value | CLAIMED


def test_a_raw_socket_that_copies_our_addresses_gains_nothing() -> None:
    rules = example(own_group=GROUP)
    ours = output(rules, own(Packet(HERE)))
    assert output(rules, replace(ours, syn=False, group=1000)).mark == SSH


def test_a_connection_that_reuses_our_addresses_and_ports_is_not_ours() -> None:
    rules = example(own_group=GROUP)
    ours = output(rules, own(Packet(HERE)))
    syn = output(rules, replace(ours, group=1000))
    assert captured(syn)
    assert output(rules, orphaned(syn)).mark == DIVERTED


def test_what_the_proxy_answers_keeps_its_mark_with_and_without_an_owner() -> None:
    rules = serving(own_group=GROUP)
    taken = arrival(rules, opened())
    assert output(rules, own(answer(taken))).mark == OWN.value | CLAIMED
    assert output(rules, orphaned(answer(taken))).mark == OWN.value | CLAIMED
    assert output(rules, replace(orphaned(answer(taken)), connmark=0)).mark == 0
