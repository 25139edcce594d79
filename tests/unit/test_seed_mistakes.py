"""The mistakes that the seed project's own implementation makes, each of them a test of what is here instead.

Policies are written as users of the library write them, and go all the way to what the kernel is told; the programs
that find a packet's class run in a BPF machine. Two more are elsewhere: every policy that is shown anywhere is accepted by the
loader (``test_policy_documents.py``), and 10 Mbit/s are 10 Mbit/s within 5 % (``tests/kernel/test_controller_kernel.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bpf_machine import Skb, run
from packet_meaning import extension, ipv4, ipv6, ports_of

from tc_core.compile.mark_tree import INNER_HANDLE, ROOT_HANDLE
from tc_core.compile.packet_tree import lanes_of
from tc_core.controller import TrafficController
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.model import BpfFilter
from tc_core.probe.capability import ALL_FEATURES
from traffic_policy.policy import DEFAULT_CLASS
from traffic_policy.units import Rate

Packet = Callable[..., Skb]
TCP, UDP, ICMP, SCTP, ICMPV6 = 6, 17, 1, 132, 58
FAMILIES = pytest.mark.parametrize("packet", [ipv4, ipv6], ids=["IPv4", "IPv6"])


@pytest.fixture
def controller() -> TrafficController:
    return TrafficController("eth0", kernel=FakeKernel("eth0"), features=ALL_FEATURES).total("1Gbit")


def class_of(controller: TrafficController, skb: Skb) -> str:
    """The class that a packet gets: the filters are asked one after the other, as the kernel does."""
    tree = lanes_of(controller.policy(), "eth0", ALL_FEATURES).tree
    for program in tree.filters:
        assert isinstance(program, BpfFilter)
        if found := run(program.instructions, skb):
            return tree.names[Handle(found >> 16, found & 0xFFFF)]
    return DEFAULT_CLASS


# --- a match that cannot be expressed becomes one that takes everything ------------------------------------------------


@pytest.mark.parametrize(
    ("network", "packet", "inside", "outside"),
    [
        ("10.2.0.0/16", ipv4, "10.2.255.255", "10.3.0.0"),
        ("10.2.0.0/15", ipv4, "10.3.255.255", "10.4.0.0"),
        ("10.2.3.4/32", ipv4, "10.2.3.4", "10.2.3.5"),
        ("128.0.0.0/1", ipv4, "255.0.0.1", "127.0.0.1"),
        ("fd00:2::/32", ipv6, "fd00:2:ffff::1", "fd00:3::1"),
        ("fd00::/9", ipv6, "fd7f::1", "fd80::1"),
        ("fd00::1/128", ipv6, "fd00::1", "fd00::2"),
    ],
)
def test_a_network_matches_that_network_alone(
    controller: TrafficController, network: str, packet: Packet, inside: str, outside: str
) -> None:
    controller.traffic_class("to").guaranteed("1Mbit").for_destination(network)
    controller.traffic_class("from").guaranteed("1Mbit").for_source(network)
    elsewhere = {"source": outside, "destination": outside}
    assert class_of(controller, packet(**{**elsewhere, "destination": inside})) == "to"
    assert class_of(controller, packet(**{**elsewhere, "source": inside})) == "from"
    assert class_of(controller, packet(**elsewhere)) == "default"
    other_family = ipv6() if packet is ipv4 else ipv4()
    assert class_of(controller, other_family) == "default"


@FAMILIES
@pytest.mark.parametrize(
    ("name", "numbers"), [("tcp", {TCP}), ("udp", {UDP}), ("icmp", {ICMP, ICMPV6})], ids=["tcp", "udp", "icmp"]
)
def test_a_protocol_matches_that_protocol_alone(
    controller: TrafficController, packet: Packet, name: str, numbers: set[int]
) -> None:
    controller.traffic_class("it").guaranteed("1Mbit").for_protocol(name)
    for number in (TCP, UDP, ICMP, ICMPV6, SCTP, 2, 47, 50, 255):
        assert (class_of(controller, packet(protocol=number)) == "it") == (number in numbers), number


def test_a_criterion_without_values_is_an_error_and_not_everything(controller: TrafficController) -> None:
    controller.traffic_class("a").guaranteed("1Mbit").for_port(*[]).for_protocol("tcp")
    [problem] = controller.validate()
    assert problem.path == "classes[0].match[0].port"
    assert "must not mean everything" in problem.message


# --- the destination port is looked for in the wrong place -------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_the_destination_port_is_the_destination_port(
    controller: TrafficController, packet: Packet, protocol: int
) -> None:
    controller.traffic_class("it").guaranteed("1Mbit").for_port(443, "8000-8100")
    for port, name in ((443, "it"), (442, "default"), (8000, "it"), (8100, "it"), (8101, "default"), (0, "default")):
        assert class_of(controller, packet(ports_of(40000, port), protocol=protocol)) == name, port
    assert class_of(controller, packet(ports_of(443, 40000), protocol=protocol)) == "default", "that is the source"
    # 443 in every other place of the headers' first words.
    assert class_of(controller, packet(ports_of(40000, 80) + (443).to_bytes(2) * 8, protocol=protocol)) == "default"


def test_the_port_is_found_behind_options_and_extension_headers(controller: TrafficController) -> None:
    controller.traffic_class("it").guaranteed("1Mbit").for_port(443)
    for words in range(11):
        assert class_of(controller, ipv4(options=bytes([1, 187] * (2 * words)))) == "it", "443 is 1, 187"
        assert class_of(controller, ipv4(ports_of(1, 2), options=bytes([1, 187] * (2 * words)))) == "default"
    for header in (extension(0), extension(43, 3), extension(60, 1, fill=187), extension(51, 4)):
        assert class_of(controller, ipv6(headers=[header])) == "it"
        assert class_of(controller, ipv6(ports_of(1, 2), headers=[header])) == "default"


def test_protocols_without_ports_have_none(controller: TrafficController) -> None:
    controller.traffic_class("it").guaranteed("1Mbit").for_port(443)
    assert class_of(controller, ipv4(ports_of(40000, 443), protocol=ICMP)) == "default"
    assert class_of(controller, ipv4(ports_of(40000, 443), fragment=100)) == "default", "not a first fragment"


# --- criteria of one match become alternatives -------------------------------------------------------------------------


def test_criteria_of_one_match_must_all_hold(controller: TrafficController) -> None:
    (
        controller.traffic_class("it").guaranteed("1Mbit")
        .for_source("10.1.0.0/16").for_destination("10.2.0.0/16").for_protocol("udp").for_port(53).for_mark(4, 4)
    )  # fmt: skip
    right = {"protocol": UDP, "payload": ports_of(40000, 53), "mark": 4}
    assert class_of(controller, ipv4(**right)) == "it"
    for wrong in (
        {"source": "10.9.0.1"},
        {"destination": "10.9.0.1"},
        {"protocol": TCP},
        {"payload": ports_of(40000, 54)},
        {"mark": 3},
    ):
        assert class_of(controller, ipv4(**{**right, **wrong})) == "default", wrong


def test_matches_and_values_are_alternatives(controller: TrafficController) -> None:
    (
        controller.traffic_class("it").guaranteed("1Mbit")
        .for_port(1, 2).for_protocol("tcp")
        .also().for_port(3).for_destination("10.2.0.0/16", "10.3.0.0/16")
    )  # fmt: skip
    for port, protocol, destination, name in (
        (1, TCP, "10.9.0.1", "it"),
        (2, TCP, "10.9.0.1", "it"),
        (1, UDP, "10.9.0.1", "default"),
        (3, UDP, "10.2.0.1", "it"),
        (3, TCP, "10.3.0.1", "it"),
        (3, TCP, "10.9.0.1", "default"),
        (1, UDP, "10.2.0.1", "default"),
    ):
        skb = ipv4(ports_of(40000, port), protocol=protocol, destination=destination)
        assert class_of(controller, skb) == name, (port, protocol, destination)


# --- more than eight classes, equal priorities -------------------------------------------------------------------------


@pytest.mark.parametrize("priorities", [[3], [7, 0], [0, 1, 2, 3, 4, 5, 6, 7]], ids=["one", "two", "all"])
def test_there_may_be_many_classes_and_priorities_may_be_equal(
    controller: TrafficController, priorities: list[int]
) -> None:
    for i in range(40):
        priority = priorities[i % len(priorities)]
        controller.traffic_class(f"c{i}").guaranteed("1Mbit").priority(priority).for_port(1000 + i)
    report = controller.apply()
    assert report.failed is None
    assert controller.plan() == []
    tree = lanes_of(controller.policy(), "eth0", ALL_FEATURES).tree
    assert len(set(tree.names)) == 42, "a handle for each, for the default class and for the total"
    for i in (0, 7, 8, 9, 39):
        assert class_of(controller, ipv4(ports_of(40000, 1000 + i))) == f"c{i}"
    assert class_of(controller, ipv4(ports_of(40000, 1040))) == "default"


def test_of_equal_priorities_the_first_in_the_policy_decides(controller: TrafficController) -> None:
    controller.traffic_class("first").guaranteed("1Mbit").for_port(443).for_destination("10.2.0.0/16")
    controller.traffic_class("second").guaranteed("1Mbit").for_port(443)
    assert class_of(controller, ipv4()) == "first"
    assert class_of(controller, ipv4(destination="10.9.0.1")) == "second"


# --- no common parent, hence no borrowing ------------------------------------------------------------------------------


def test_all_classes_borrow_from_one_parent_that_has_the_total() -> None:
    kernel = FakeKernel("eth0")
    controller = TrafficController("eth0", kernel=kernel, features=ALL_FEATURES).total("100Mbit")
    controller.traffic_class("a").guaranteed("10Mbit").for_port(1)
    controller.traffic_class("b").guaranteed("20Mbit").up_to("50Mbit").for_port(2)
    controller.apply()
    leaves = [c for c in kernel.observe("eth0").classes if c.handle != INNER_HANDLE]
    inner = kernel.observe("eth0").class_named(INNER_HANDLE)
    assert inner is not None
    assert (inner.parent, inner.rate, inner.ceil) == (ROOT_HANDLE, Rate.parse("100Mbit"), Rate.parse("100Mbit"))
    assert {c.parent for c in leaves} == {INNER_HANDLE}
    limits = sorted((str(c.rate), str(c.ceil)) for c in leaves)
    assert limits == [("10Mbit", "100Mbit"), ("1Mbit", "100Mbit"), ("20Mbit", "50Mbit")]
    assert sum(c.rate.bits_per_second for c in leaves) <= inner.rate.bits_per_second


# --- qdiscs are accepted and never sent to the kernel ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "kind"),
    [
        ("auto", "fq_codel"),
        ("low-latency", "fq_codel"),
        ("fair", "fq_codel"),
        ("fq_codel", "fq_codel"),
        ("sfq", "sfq"),
        ("cake", "cake"),
        ("fifo", "bfifo"),
    ],
)
@pytest.mark.parametrize("shaper", ["htb", "prio"])
def test_every_queue_reaches_the_kernel(shaper: str, queue: str, kind: str) -> None:
    kernel = FakeKernel("eth0")
    controller = TrafficController("eth0", kernel=kernel, features=ALL_FEATURES).total("10Mbit").shaper(shaper)
    written = controller.traffic_class("a").for_port(1).queue(queue)
    if shaper == "htb":
        written.guaranteed("1Mbit")
    controller.apply()
    leaf = 0x101
    found = [q.kind for q in kernel.observe("eth0").qdiscs if q.handle.major == leaf]
    assert found == [kind]


@pytest.mark.parametrize(
    ("shaper", "kinds"),
    [
        ("htb", ["htb", "fq_codel"]),
        ("tbf", ["tbf", "fq_codel"]),
        ("prio", ["tbf", "prio", "fq_codel"]),
        ("cake", ["cake"]),
    ],
)
def test_every_shaper_reaches_the_kernel(shaper: str, kinds: list[str]) -> None:
    kernel = FakeKernel("eth0")
    TrafficController("eth0", kernel=kernel, features=ALL_FEATURES).total("10Mbit").shaper(shaper).apply()
    found = kernel.observe("eth0").qdiscs
    assert [q.kind for q in found] == kinds
    assert found[0].parent == ROOT


@pytest.mark.parametrize("shaper", ["htb", "tbf", "prio"])
def test_rehearsals_reach_the_kernel(shaper: str) -> None:
    kernel = FakeKernel("eth0")
    controller = TrafficController("eth0", kernel=kernel, features=ALL_FEATURES).total("10Mbit").shaper(shaper)
    controller.rehearsal(delay="50ms", loss="1%").apply()
    assert "netem" in [q.kind for q in kernel.observe("eth0").qdiscs]


def test_limits_of_what_arrives_reach_the_kernel() -> None:
    kernel = FakeKernel("eth0")
    controller = TrafficController("eth0", kernel=kernel, features=ALL_FEATURES).total("10Mbit").ingress_total("5Mbit")
    controller.apply()
    inner = kernel.observe("ifb-eth0").class_named(INNER_HANDLE)
    assert inner is not None
    assert inner.rate == Rate.parse("5Mbit")
    assert [f.kind for f in kernel.observe("eth0").ingress] == ["bpf"]
