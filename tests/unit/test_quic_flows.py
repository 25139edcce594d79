"""QUIC in captures: what its client says, who the client is, and that the class is still by port and network."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from captured import RAW, flows
from first_bytes import alpn, extension, hello, sni
from hypothesis import given, settings
from hypothesis import strategies as st
from quic_datagrams import ID, crypto, initial, long_packet, odd_datagrams
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from datapath.mesh.types import ISTIO
from datapath.protocols.quic_crypto import KEYS_SIZE
from datapath.protocols.quic_initial import MAX_BYTES
from datapath.protocols.quic_packets import MIN_DATAGRAM
from podlane.classify.flow import Flow
from podlane.classify.flows import FlowTable
from podlane.classify.verdicts import FlowClassifier, Verdict
from traffic_policy.policy import Quic
from traffic_policy.policy_file import parse_policy

MESSAGE = hello(sni(b"API.example.com"), alpn(b"h3", b"h3-29"), extension(0xFE0D), extension(51, b"k" * 1300))
FIRST, SECOND = initial(crypto(0, MESSAGE[:900])), initial(crypto(900, MESSAGE[900:]), number=1)
ANSWER = initial(crypto(0, b"\x02" + bytes(60)), to=b"from", keys_of=ID, from_client=False)
NAMES = ("quic", "api.example.com", ("h3", "h3-29"), True)
POLICY = parse_policy("""
total: 100Mbit
classes:
  - {name: named, rate: 1Mbit, match: [{sni: [api.example.com]}]}
  - {name: fast, rate: 1Mbit, match: [{protocol: udp, port: [443]}]}
""")


def up(data: bytes, sport: int = 40_000, dport: int = 443) -> Packet:
    return IP(src="10.0.0.2", dst="10.0.0.1") / UDP(sport=sport, dport=dport) / Raw(data)


def down(data: bytes, sport: int = 40_000, dport: int = 443) -> Packet:
    return IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=dport, dport=sport) / Raw(data)


def verdict_of(packets: list[Packet]) -> Verdict:
    found, table = flows(packets)
    assert len(found) == 1
    assert table._held == 0
    return FlowClassifier(POLICY).verdict(found[0])


def names(verdict: Verdict) -> tuple[object, ...]:
    return verdict.detected, verdict.sni, verdict.alpn, verdict.ech


ENCRYPTED = "the true name may be encrypted (ECH)"


def test_names_decide() -> None:
    verdict = verdict_of([up(FIRST), up(SECOND), down(ANSWER), up(b"\x40" + bytes(50))])
    assert names(verdict) == NAMES
    assert (verdict.class_name, verdict.protocol) == ("named", "udp")
    assert verdict.why == f"named takes QUIC connections to api.example.com; {ENCRYPTED}"


def test_istios_name_of_a_service_means_nothing_in_quic() -> None:
    (found,), _ = flows([up(initial(crypto(0, hello(sni(b"outbound_.443_._.api.example.com")))))])
    verdict = FlowClassifier(POLICY, mesh=ISTIO).verdict(found)
    assert (verdict.class_name, "Istio" in verdict.why) == ("fast", False)


def test_names_do_not_decide_where_quic_is_not_looked_for() -> None:
    verdict = verdict_of([up(FIRST, dport=8443), up(SECOND, dport=8443)])
    assert names(verdict) == NAMES
    assert verdict.class_name == "default"
    assert verdict.why == f"no class takes QUIC connections to api.example.com on port 8443; {ENCRYPTED}"


def test_what_the_policy_blocks_is_said_to_be_refused() -> None:
    found, _ = flows([up(FIRST), up(SECOND)])
    verdict = FlowClassifier(POLICY.model_copy(update={"quic": Quic.BLOCK})).verdict(found[0])
    assert verdict.class_name == "fast"
    refused = "its first packets would be refused (quic: block), so that the client takes TCP"
    assert verdict.why == f"fast takes UDP on port 443; {refused}; {ENCRYPTED}"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_who_sent_the_client_s_initials_is_the_client(order: tuple[int, ...]) -> None:
    """Neither the ports nor who was seen first say so: the client's is a well-known one."""
    packets = [up(FIRST, 400, 40_000), up(SECOND, 400, 40_000), down(ANSWER, 400, 40_000)]
    verdict = verdict_of([packets[i] for i in order])
    assert names(verdict) == NAMES
    assert (verdict.src, verdict.sport, verdict.packets_up, verdict.packets_down) == ("10.0.0.2", 400, 2, 1)


def test_a_client_s_initial_alone_tells_the_direction() -> None:
    verdict = verdict_of([down(ANSWER, 400, 40_000), up(FIRST, 400, 40_000)])
    assert names(verdict) == ("quic", None, (), False)
    assert verdict.sport == 400


def test_other_datagrams_may_come_before() -> None:
    assert names(verdict_of([up(b"\0\1\0\0" + bytes(16)), down(bytes(20)), up(FIRST), up(SECOND)])) == NAMES


def test_much_may_come_from_the_server_before_the_hello_is_whole() -> None:
    others = [down(ANSWER), down(b"\x40" + bytes(1000))] * 15
    assert names(verdict_of([up(FIRST), *others, up(SECOND)])) == NAMES


def test_the_first_connection_between_two_ports_counts() -> None:
    other = initial(crypto(0, hello(sni(b"other.example.com"))), to=b"other id")
    assert names(verdict_of([up(FIRST), up(SECOND), up(other)])) == NAMES


def test_fragments_and_ipv6() -> None:
    parts = [part for data in (FIRST, SECOND) for part in fragment(up(data), 600)]
    assert names(verdict_of(parts)) == NAMES
    six = [IPv6(src="fd00::2", dst="fd00::1") / UDP(sport=40_000, dport=443) / Raw(data) for data in (FIRST, SECOND)]
    assert names(verdict_of(six)) == NAMES


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param([down(ANSWER), down(ANSWER)], id="the server alone"),
        pytest.param([up(SECOND)], id="a part of the hello"),
        pytest.param([up(long_packet(crypto(0, MESSAGE[:100])))], id="too small for a client's"),
        pytest.param([up(FIRST[:200])], id="cut off by the capture"),
        pytest.param([up(initial(crypto(0, b"\x02" + bytes(60))))], id="malformed"),
        pytest.param([up(FIRST)] * (MAX_BYTES // MIN_DATAGRAM + 1) + [up(SECOND)], id="too much"),
    ],
)
def test_what_cannot_be_read_is_still_quic(packets: list[Packet]) -> None:
    verdict = verdict_of(packets)
    assert names(verdict) == ("quic", None, (), False)
    assert verdict.why.startswith("fast takes UDP on port 443; ")
    assert ("not in the capture, or not whole" in verdict.why) != ("is not valid, or too much" in verdict.why)


def test_the_bytes_held_for_hellos_are_bounded() -> None:
    """Hellos that never end: the flows silent for longest are judged without their names."""
    packets = [up(FIRST, sport) for sport in range(40_000, 40_100)]
    packets += [up(SECOND, sport) for sport in range(40_099, 40_000, -1)]
    found, table = flows(packets, max_held=10 * (KEYS_SIZE + 1800))
    assert table.seen.evicted
    assert table._held == 0
    assert 0 < len([flow for flow in found if flow.detection]) < 30


@settings(max_examples=50)
@given(st.lists(st.tuples(odd_datagrams(), st.sampled_from([up, down]), st.sampled_from([443, 444, 445])), max_size=20))
def test_whatever_comes_every_datagram_is_counted_and_memory_is_bounded(
    sent: list[tuple[bytes, Callable[..., Packet], int]],
) -> None:
    given_away: list[Flow] = []
    table = FlowTable(given_away.append, max_held=KEYS_SIZE * 3)
    for data, side, port in sent:
        frame = bytes(side(data, dport=port))
        table.add(RAW, frame, len(frame), 0.0)
        halves = set(table._halves.values())
        held = [half.initials.held for half in halves if half.initials is not None]
        assert table._held == sum(held)
        # The flow whose turn it is may stay, however much it holds.
        assert sum(held) - max(held, default=0) <= KEYS_SIZE * 3
    table.finish()
    assert table._held == 0
    assert sum(half.packets for flow in given_away for half in flow.halves) == len(sent)
    for flow in given_away:
        FlowClassifier(POLICY).verdict(flow)
