"""``podlane explain``: policies in plain words. Every sentence is checked against what the policy makes the kernel do."""

from __future__ import annotations

import pytest

from datapath.explain.policy import BY_BOTH, BY_KERNEL, BY_PROXY, BY_REST, Explanation, explain_policy
from datapath.mesh.types import ISTIO, LINKERD, MeshProxy
from datapath.netfilter.ruleset import CaptureSettings
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import Datapath
from traffic_policy.units import Rate

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
    assert explain(ISSUE).sharing == (
        "What a class does not use is lent to api (priority 1), then to backup and default (priority 7), to each up to "
        "its ceil. Classes of one priority share it in proportion to their guarantees."
    )


def test_a_class_whose_ceil_is_its_rate_never_borrows() -> None:
    explanation = one_class("{port: [80]}", ceil="10Mbit")
    assert explanation.classes[0].sentence.endswith("and never more, since its ceil is its rate.")
    assert "lent to default (priority 7)" in explanation.sharing
    assert "a " not in explanation.sharing.partition("lent to")[2].split(",")[0]


def test_nothing_is_captured_when_the_kernel_can_decide_everything() -> None:
    explanation = one_class("{port: [80]}")
    assert explanation.captured.startswith("Nothing is captured")
    assert not any("QUIC" in note for note in explanation.notes)


QUIC = {
    "server names": ("{sni: [a.test]}", "", ["QUIC (HTTP/3) on UDP port 443 is read", "All other UDP goes"]),
    "ports of their own": ("{sni: [a.test], port: [443, 8443]}", "", ["QUIC (HTTP/3) on UDP port 443 or 8443 is read"]),
    "hosts": ("{host: [a.test]}", "", ["UDP shows none of these names. It goes to the class of its port"]),
    "blocked": (
        "{sni: [a.test]}",
        "\nquic: block",
        ["QUIC (HTTP/3) that this side opens to UDP port 443", "is refused"],
    ),
    "TCP alone": ("{sni: [a.test], protocol: tcp}", "", ["UDP shows none of these names"]),
}


@pytest.mark.parametrize("case", QUIC)
def test_what_becomes_of_quic_is_said_once(case: str) -> None:
    match, more, words = QUIC[case]
    text = f"total: 10Mbit\nclasses: [{{name: a, rate: 1Mbit, match: [{match}]}}]{more}"
    (note,) = [note for note in explain(text).notes if "QUIC" in note]
    assert all(each in note for each in words)


def test_names_in_quic_alone_open_no_listener() -> None:
    explanation = one_class("{sni: [a.test], protocol: udp}")
    assert explanation.captured.startswith("No TCP connection is captured")
    assert explanation.classes[0].matches[0].traffic == "QUIC connections to a.test"


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


PRIO = "total: 10Mbit\nshaper: prio\nclasses: [{name: a, match: [{port: 80}]}]"
MARK = "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{mark: 3}]}]"


@pytest.mark.parametrize(
    ("text", "for_sidecar", "for_packets", "use"),
    [
        ("total: 10Mbit", True, True, ()),
        (
            PRIO,
            False,
            True,
            (
                "Only podlane tc can use this policy, not podlane run and the sidecar.",
                "shaper: The sidecar shares the total by guarantees, not by prio.",
            ),
        ),
        (
            "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{sni: a.test}]}]",
            True,
            False,
            (
                "Only podlane run and the sidecar can use this policy, not podlane tc.",
                "classes[0].match[0]: sni can be seen only by a proxy that reads the first bytes.",
            ),
        ),
        (
            "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{sni: a.test, mark: 3}]}]",
            False,
            False,
            (
                "Nobody can use this policy as it is: not podlane run and the sidecar, and not podlane tc.",
                "classes[0].match[0].mark: The sidecar writes the mark itself, so it cannot tell traffic apart by it.",
                "classes[0].match[0]: sni can be seen only by a proxy that reads the first bytes.",
            ),
        ),
    ],
    ids=["both", "tc alone", "sidecar alone", "nobody"],
)
def test_who_can_use_a_policy(text: str, for_sidecar: bool, for_packets: bool, use: tuple[str, ...]) -> None:
    explanation = explain(text)
    assert (explanation.for_sidecar, explanation.for_packets, explanation.use) == (for_sidecar, for_packets, use)


def test_one_reason_for_many_places_is_said_once() -> None:
    names = ", ".join(f"{{sni: h{i}.test}}" for i in range(5))
    (_, reason) = one_class(names).use
    assert reason.startswith(
        "classes[0].match[0], classes[0].match[1], classes[0].match[2] and 2 more: sni can be seen only"
    )


@pytest.mark.parametrize("text", [PRIO, MARK], ids=["no guarantees", "marks"])
def test_nothing_is_said_of_the_proxy_where_it_cannot_be_used(text: str) -> None:
    explanation = explain(text)
    assert explanation.captured == ""
    assert not any("Loopback" in note for note in explanation.notes)


def test_a_shaper_without_guarantees_shows_none() -> None:
    explanation = explain(PRIO)
    assert explanation.unreserved is None
    assert [(c.rate, c.share) for c in explanation.classes] == [(None, None)] * 2


def test_what_is_captured_names_the_sources() -> None:
    captured = one_class("{sni: [a.test], port: [443], source: [10.0.0.0/8]}").captured
    assert "TCP connections to port 443 from 10.0.0.0/8, unless" in captured


def test_queue_rehearsal_and_ingress_are_details_of_a_class() -> None:
    explanation = explain(
        "total: 10Mbit\ningress: {total: 5Mbit}\n"
        "classes: [{name: a, rate: 1Mbit, queue: fair, ingress: {rate: 1Mbit}, match: [{port: 80}]}]"
    )
    queue, received = explanation.classes[0].details
    assert queue.startswith("Fair queuing")
    assert received.startswith("Of what arrives, it is guaranteed 1 Mbit/s (20 % of the total there)")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{sni: a.example}, {port: 53, protocol: udp, direction: inbound}]}]",
            "step-aside (--datapath",
        ),
        (
            "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example, direction: inbound}}]",
            "ebpf (--datapath ebpf) where `podlane check` says that it works",
        ),
        (
            "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example}}]",
            "ebpf (--datapath ebpf) where `podlane check` says that it works",
        ),
        (
            "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example}}]\ndefault: {ceil: 2Mbit}",
            "relay. Stepping aside, connections begin in the class of their port, and the default class is held to 2 Mbit/s",
        ),
        ("total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {port: 80}}]", ""),
        ("total: 10Mbit\nshaper: prio\nclasses: [{name: a, match: {sni: a.example}}]", ""),
    ],
    ids=[
        "what clients open is told apart with UDP",
        "names of clients decide",
        "names decide",
        "a short default class",
        "nothing is captured",
        "not for the sidecar",
    ],
)
def test_a_datapath_is_recommended_with_the_reason(policy: str, words: str) -> None:
    said = explain(policy).datapath
    assert words in said
    assert bool(said) == bool(words)


def test_what_stepping_aside_does_is_said() -> None:
    policy = parse_policy("total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example}}]")
    said = explain_policy(policy, CaptureSettings(datapath=Datapath.STEP_ASIDE)).captured
    assert said.startswith("Shown to the classifier: the first packets with data of TCP connections to any port except")
    assert "no connection goes through user space" in said


def test_what_programs_do_is_said_and_what_they_refuse() -> None:
    match = "[{sni: a.example}, {port: 53, protocol: udp, direction: inbound}]"
    policy = parse_policy(f"total: 10Mbit\nclasses: [{{name: a, rate: 1Mbit, match: {match}}}]")
    explanation = explain_policy(policy, CaptureSettings(datapath=Datapath.EBPF))
    assert explanation.captured.startswith(
        "Read in the kernel: the first packet with data of TCP connections to any port"
    )
    assert any(note.startswith("Refused as it is: classes[0].match[1].direction") for note in explanation.notes)


@pytest.mark.parametrize(
    ("mesh", "match", "datapath", "said", "not_said"),
    [
        (ISTIO, "{sni: a.example}", Datapath.RELAY, ["gid 1337", "ports 15000-15090", "outbound_.80_._.HOST", "HBONE (port 15008)"], ["Refused"]),
        (LINKERD, "{sni: a.example}", Datapath.RELAY, ["uid 2102", "ports 4140-4143, 4190-4191"], ["Refused", "HBONE", "outbound_"]),
        (ISTIO, "{sni: a.example, direction: inbound}", Datapath.RELAY, ["Refused as it is: Class a: Beside Istio"], []),
        (ISTIO, "{sni: a.example, direction: inbound}", Datapath.STEP_ASIDE, ["gid 1337"], ["Refused"]),
        (ISTIO, "{port: 80}", Datapath.RELAY, [], ["1337", "Istio"]),
        (None, "{sni: a.example}", Datapath.RELAY, [], ["1337", "Istio"]),
    ],
    ids=["Istio", "Linkerd", "inbound by relay", "inbound, stepping aside", "no names", "no mesh"],
)  # fmt: skip
def test_what_a_mesh_changes_is_said(
    mesh: MeshProxy | None, match: str, datapath: Datapath, said: list[str], not_said: list[str]
) -> None:
    policy = parse_policy(f"total: 10Mbit\nclasses: [{{name: a, rate: 1Mbit, match: {match}}}]")
    notes = " ".join(explain_policy(policy, CaptureSettings(datapath=datapath, mesh=mesh)).notes)
    assert [words for words in said if words not in notes] == []
    assert [words for words in not_said if words in notes] == []


def test_beside_istio_a_port_does_not_bound_what_is_captured() -> None:
    policy = parse_policy("total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {host: a.example, port: 8000}}]")
    assert "Captured by the proxy: TCP connections to port 8000," in explain_policy(policy).captured
    assert "to any port except 21" in explain_policy(policy, CaptureSettings(mesh=ISTIO)).captured
