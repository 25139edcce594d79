"""The parts of a policy that say how the total is shared, how packets wait, and what arrives; and criteria of packets."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from tc_core.compile.ingress_classifier import IngressClassifier, select_ingress_classifier
from tc_core.probe.capability import ALL_FEATURES, absent
from traffic_policy.errors import PolicyError
from traffic_policy.marks import Mark
from traffic_policy.overlap import covers
from traffic_policy.policy import Match, PortRange, Queue, Shaper, TrafficPolicy, TransportProtocol
from traffic_policy.policy_file import dump_policy, parse_policy
from traffic_policy.ports import TransportProtocol as Protocol
from traffic_policy.scope import beyond, beyond_packets, beyond_sidecar, beyond_step_aside, needs_names
from traffic_policy.services import service_named, services
from traffic_policy.units import Duration, Percentage, Rate

ALL_KEYS = """
total: 100Mbit
ingress: {total: 50Mbit}
rehearsal: {delay: 20ms, jitter: 5ms, loss: 0.5%, duplicate: 1%, corrupt: 0.01%}
classes:
  - name: db
    rate: 20Mbit
    ingress: {rate: 10Mbit, ceil: 20Mbit}
    match:
      - {application: [postgres, mysql], source: [10.0.0.0/8, "fd00::/8"]}
      - {mark: [0x10/0xf0, 7], protocol: icmp}
  - name: web
    rate: 10Mbit
    match: {port: 443}
default: {ingress: {rate: 1Mbit}, priority: 6}
"""


def test_everything_that_is_written_is_read_and_written_again() -> None:
    policy = parse_policy(ALL_KEYS)
    db = policy.classes[0]
    assert policy.ingress is not None
    assert policy.rehearsal is not None
    assert (policy.shaper, policy.ingress.total) == (Shaper.HTB, Rate(50_000_000))
    assert (policy.rehearsal.delay, policy.rehearsal.loss) == (Duration(20_000_000), Percentage(5_000))
    assert db.match[0].application == ("postgresql", "mysql")
    assert db.match[1].mark == (Mark(0x10, 0xF0), Mark(7, 0xFFFFFFFF))
    assert [c.rehearsal for c in policy.resolved()] == [policy.rehearsal] * 3
    assert parse_policy(dump_policy(policy)) == policy


def test_services_become_their_ports_and_protocols() -> None:
    text = "{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {application: [ssh, dns, ntp, mysql], source: 10.0.0.0/8}}]}"
    rules = [match for _, match in parse_policy(text).rules()]
    assert [(m.port, m.protocol) for m in rules] == [
        ((PortRange(22, 22), PortRange(3306, 3306)), (Protocol.TCP,)),
        ((PortRange(53, 53),), (Protocol.TCP, Protocol.UDP)),
        ((PortRange(123, 123),), (Protocol.UDP,)),
    ]
    assert all(str(m.source[0]) == "10.0.0.0/8" and not m.application for m in rules)


def test_a_service_can_be_held_to_one_protocol() -> None:
    text = "{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {application: dns, protocol: udp}}]}"
    assert [m.protocol for _, m in parse_policy(text).rules()] == [(Protocol.UDP,)]


def test_service_names_are_those_of_the_system() -> None:
    compared = 0
    for name, service in services().items():
        for protocol in service.protocols:
            try:
                port = socket.getservbyname(name, protocol)
            except OSError:
                continue  # the system's list is shorter
            assert port == service.port, name
            compared += 1
    assert compared > 100, "is netbase installed?"


def test_an_unknown_service_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="Did you mean http"):
        service_named("htps")


REFUSED = [
    pytest.param("{total: 9Mbit, shaper: tbf, classes: [{name: a, match: {port: 1}}]}", "tbf treats all traffic alike", id="tbf-classes"),
    pytest.param("{total: 9Mbit, shaper: cake, default: {rate: 1Mbit}}", "default.rate: cake gives no guarantees", id="cake-rate"),
    pytest.param("{total: 9Mbit, shaper: tbf, default: {ceil: 1Mbit}}", "to the total alone", id="tbf-ceil"),
    pytest.param("{total: 9Mbit, shaper: cake, rehearsal: {loss: 1%}}", "write shaper: tbf", id="cake-rehearsal"),
    pytest.param("{total: 9Mbit, shaper: prio, classes: [{name: a, rate: 1Mbit, match: {port: 1}}]}", "prio gives no guarantees", id="prio-rate"),
    pytest.param("{total: 9Mbit, shaper: prio, classes: [{name: a, ceil: 1kbit, match: {port: 1}}]}", "is held to 1 kbit/s, too little", id="prio-tiny-ceil"),
    pytest.param("{total: 9Mbit, shaper: prio, default: {burst: 9kB}}", "no burst", id="prio-burst"),
    pytest.param(
        f"{{total: 9Mbit, shaper: prio, classes: [{', '.join(f'{{name: c{i}, match: {{port: {i}}}}}' for i in range(1, 17))}]}}",
        "prio has 16 bands", id="prio-bands",
    ),
    pytest.param("{total: 9Mbit, shaper: fq}", "'fq' is not a shaper. Write htb, tbf, prio or cake.", id="shaper"),
    pytest.param("{total: 9Mbit, default: {queue: red}}", "'red' is not a queue. Write auto,", id="queue"),
    pytest.param("{total: 9Mbit, classes: [{name: a, match: {port: 1}}]}", "classes[0]: rate is missing. Add what is guaranteed", id="rate-missing"),
    pytest.param("{total: 9, classes: [{name: a, match: {port: 1}}]}", "classes[0]: rate is missing.", id="rate-missing-among-others"),
    pytest.param("{total: 9Mbit, rehearsal: {}}", "It is empty", id="rehearsal-empty"),
    pytest.param("{total: 9Mbit, rehearsal: {delay: , loss: }}", "It is empty", id="rehearsal-of-nothing"),
    pytest.param("{total: 9Mbit, rehearsal: {jitter: 5ms}}", "Write delay: 5ms or more", id="jitter-alone"),
    pytest.param("{total: 9Mbit, rehearsal: {delay: 5m}}", "longer than any path", id="delay-endless"),
    pytest.param("{total: 9Mbit, rehearsal: {loss: 5}}", "as in 1% or 0.05%", id="loss-without-sign"),
    pytest.param("{total: 9Mbit, rehearsal: {loss: 101%}}", "outside 0% to 100%", id="loss-above-all"),
    pytest.param("{total: 9Mbit, default: {queue: fair, rehearsal: {loss: 1%}}}", "so there is no other", id="queue-and-rehearsal"),
    pytest.param("{total: 9Mbit, rehearsal: {lose: 1%}}", "There is no key lose. Did you mean loss?", id="rehearsal-key"),
    pytest.param("{total: 9Mbit, ingress: {rate: 1Mbit}}", "total is missing", id="ingress-total"),
    pytest.param("{total: 9Mbit, default: {ingress: {rate: 1Mbit}}}", "ingress: {total: 100Mbit}", id="ingress-without-total"),
    pytest.param("{total: 9Mbit, ingress: {total: 5Mbit}, default: {ingress: {rate: 6Mbit}}}", "raise ingress.total to 6Mbit", id="ingress-above-total"),
    pytest.param("{total: 9Mbit, ingress: {total: 1kbit}}", "too little to carry packets", id="ingress-tiny"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {port: 1, application: ssh}}]}", "both say which ports", id="port-and-application"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {application: ssh, protocol: udp}}]}", "ssh does not use udp", id="service-protocol"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {port: 1, protocol: icmp}}]}", "icmp has no ports", id="icmp-port"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {sni: a.b, protocol: icmp}}]}", "cannot match icmp", id="icmp-sni"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {source: 10.0.0.0/8, cidr: 'fd00::/8'}}]}", "of different families", id="families"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {mark: 0x11/0xf0}}]}", "Write 0x10", id="mark-beyond-mask"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {mark: 0x100000000}}]}", "has 32 bits", id="mark-too-long"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {mark: 0/0}}]}", "everything would match", id="mark-of-no-bits"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {mark: blue}}]}", '"0x10/0xff"', id="mark-word"),
    pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {source: 10.0.0.1/8}}]}", "Write 10.0.0.0/8", id="source-host-bits"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_a_wrong_policy_is_told_what_to_do(text: str, words: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse_policy(text)
    assert words in str(error.value)


@pytest.mark.parametrize("shaper", list(Shaper))
def test_the_smallest_policy_of_each_shaper(shaper: Shaper) -> None:
    policy = parse_policy(f"{{total: 10Mbit, shaper: {shaper}}}")
    (default,) = policy.resolved()
    assert default.rate == (Rate(100_000) if shaper is Shaper.HTB else Rate(0))
    assert default.ceil == Rate(10_000_000)


@pytest.mark.parametrize("queue", list(Queue))
def test_every_queue_can_be_asked_for(queue: Queue) -> None:
    assert parse_policy(f"{{total: 10Mbit, default: {{queue: {queue}}}}}").resolved()[-1].queue is queue


@pytest.mark.parametrize(
    ("outer", "inner", "hidden"),
    [
        pytest.param({"source": "10.0.0.0/8"}, {"source": "10.1.0.0/16", "port": 1}, True, id="source"),
        pytest.param({"source": "10.0.0.0/8"}, {"cidr": "10.1.0.0/16"}, False, id="source-is-not-destination"),
        pytest.param({"mark": "0x10/0xf0"}, {"mark": "0x1f/0xff"}, True, id="wider-mask"),
        pytest.param({"mark": "0x1f/0xff"}, {"mark": "0x10/0xf0"}, False, id="narrower-mask"),
        pytest.param({"mark": "0x10/0xf0"}, {"mark": "0x2f/0xff"}, False, id="other-mark"),
        pytest.param({"protocol": ["tcp", "udp"]}, {"protocol": "icmp"}, False, id="icmp"),
        pytest.param({"protocol": "icmp"}, {"protocol": "icmp", "cidr": "10.0.0.0/8"}, True, id="icmp-narrower"),
        pytest.param({"protocol": ["tcp", "udp", "icmp"]}, {"source": "10.0.0.0/8"}, False, id="other-protocols"),
    ],
)
def test_when_one_match_hides_another(outer: dict[str, object], inner: dict[str, object], hidden: bool) -> None:
    assert covers(Match.model_validate(outer), Match.model_validate(inner)) is hidden


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        pytest.param("{port: [22, 53]}", "{application: [ssh, dns]}", True, id="ports-hide-services"),
        pytest.param("{port: 22}", "{application: [ssh, dns]}", False, id="only-one-of-them"),
        pytest.param("{application: [ssh, dns]}", "{port: 22, protocol: tcp}", True, id="a-service-hides-its-port"),
        pytest.param("{application: ssh}", "{port: 22}", False, id="and-not-the-same-port-of-udp"),
    ],
)
def test_services_hide_and_are_hidden(first: str, second: str, hidden: bool) -> None:
    text = f"{{total: 9Mbit, classes: [{{name: a, rate: 1Mbit, match: {first}}}, {{name: b, rate: 1Mbit, match: {second}}}]}}"
    if not hidden:
        assert parse_policy(text)
        return
    with pytest.raises(PolicyError, match="can never decide"):
        parse_policy(text)


def problems(policy: TrafficPolicy) -> tuple[list[str], list[str]]:
    return [p.path for p in beyond_packets(policy)], [p.path for p in beyond_sidecar(policy)]


@pytest.mark.parametrize(
    ("text", "packets", "sidecar"),
    [
        pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {port: 1, source: 10.0.0.0/8}}]}", [], [], id="both"),
        pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: [{port: 1}, {sni: a.b}, {host: a.b}]}]}",
                     ["classes[0].match[1]", "classes[0].match[2]"], [], id="names"),
        pytest.param("{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: {mark: 1}}]}", [], ["classes[0].match[0].mark"], id="marks"),
        pytest.param("{total: 9Mbit, shaper: tbf, ingress: {total: 1Mbit}}", [], ["shaper"], id="tc-only"),
        pytest.param("{total: 9Mbit, ingress: {total: 1Mbit}, classes: [{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {direction: inbound}}]}",
                     ["classes[0].match[0].direction"], ["classes[0].match[0].direction"], id="opened by clients, with no port"),
        pytest.param("{total: 9Mbit, ingress: {total: 1Mbit}, classes: [{name: a, rate: 1Mbit, match: {direction: inbound}}]}",
                     ["classes[0].match[0].direction"], [], id="where it does not matter"),
        pytest.param("{total: 9Mbit, ingress: {total: 1Mbit}, classes: [{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: [{port: 80, direction: inbound}, {sni: a.b}]}]}",
                     ["classes[0].match[1]", "classes[0].match[0].direction"], [], id="both ways by port, and a name"),
    ],
)  # fmt: skip
def test_who_can_honour_what(text: str, packets: list[str], sidecar: list[str]) -> None:
    assert problems(parse_policy(text)) == (packets, sidecar)


LIMITED = "{total: 9Mbit, ingress: {total: 5Mbit}, classes: [%s]}"
BY_NAME, BY_PORT = "{name: n, rate: 1Mbit, %s match: {sni: a.b}}", "{name: p, rate: 1Mbit, %s match: {port: 80}}"
RECEIVES = "ingress: {rate: 1Mbit},"


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        pytest.param(LIMITED % (BY_NAME % RECEIVES), True, id="a class with a name"),
        pytest.param(LIMITED % (BY_NAME % "" + "," + BY_PORT % RECEIVES), True, id="a name may take from the class"),
        pytest.param(LIMITED % (BY_PORT % RECEIVES + "," + BY_NAME % ""), False, id="names come later"),
        pytest.param(LIMITED % (BY_PORT % "" + "," + BY_NAME % ""), False, id="the total alone"),
        pytest.param(f"{{total: 9Mbit, classes: [{BY_NAME % ''}]}}", False, id="nothing of what arrives"),
    ],
)
def test_when_packets_do_not_tell_the_class_of_what_arrives(text: str, needed: bool) -> None:
    policy = parse_policy(text)
    assert needs_names(policy) is needed
    assert not beyond_step_aside(policy)
    assert (select_ingress_classifier(policy, ALL_FEATURES) is not None) is needed


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (f"{{total: 9Mbit, classes: [{BY_NAME % ''}]}}", []),
        (f"{{total: 9Mbit, requests: follow, classes: [{BY_NAME % ''}]}}", ["requests"]),
        (f"{{total: 9Mbit, quic: block, classes: [{BY_NAME % ''}]}}", []),
        ("{total: 9Mbit, quic: block, classes: [{name: a, rate: 1Mbit, match: {host: a.example}}]}", []),
        (LIMITED % (BY_NAME % RECEIVES), ["ingress"]),
        (LIMITED % (BY_PORT % RECEIVES), []),
        (
            "{total: 9Mbit, classes: [{name: a, rate: 1Mbit, match: [{port: 1}, {protocol: udp, direction: both}]}]}",
            ["classes[0].match[1].direction"],
        ),
    ],
)
def test_what_programs_in_the_kernel_cannot_do(text: str, paths: list[str]) -> None:
    assert [problem.path for problem in beyond(parse_policy(text), "ebpf")] == paths
    assert beyond(parse_policy(text), "relay") == []
    assert beyond(parse_policy(text), None) == []


@pytest.mark.parametrize(
    ("missing", "relays", "ingress_classifier"),
    [
        ((), True, IngressClassifier.SOCKETS),
        (("sockets",), True, IngressClassifier.CONNMARK),
        (("connmark",), True, IngressClassifier.SOCKETS),
        (("sockets", "connmark"), True, IngressClassifier.PACING),
        ((), False, IngressClassifier.CONNMARK),
        (("sockets", "connmark"), False, IngressClassifier.CONNMARK),
    ],
)
def test_who_tells_it_then(missing: tuple[str, ...], relays: bool, ingress_classifier: IngressClassifier) -> None:
    there = replace(ALL_FEATURES, **{name: absent(name, "not here") for name in missing})
    assert (
        select_ingress_classifier(parse_policy(LIMITED % (BY_NAME % RECEIVES)), there, relays=relays)
        is ingress_classifier
    )


@pytest.mark.parametrize("text", ["1%", "0.05%", "100%", "0%", "12.3456%"])
def test_a_printed_percentage_reads_back_exactly(text: str) -> None:
    assert str(Percentage.parse(text)) == text


def test_ports_belong_to_protocols_that_have_them() -> None:
    assert [p for p in TransportProtocol if p.has_ports] == [TransportProtocol.TCP, TransportProtocol.UDP]
