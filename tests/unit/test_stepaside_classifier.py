"""From packets to marks: whatever the order, the cuts and the losses, the class is that of the stream's content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from first_bytes import cut, hello, records, sni
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_packets import ACK, CLIENT, FIN, PSH, SYN, flow_of, tcp_packet

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow, known_marks
from datapath.stepaside.classifier import Classifier
from datapath.stepaside.marks import CHOSEN, DECIDED, FIRST, OURS
from datapath.stepaside.pending_flows import PATIENCE_S
from traffic_policy.marks import STATE_MASK, ClassIds, class_mark
from traffic_policy.policy import Bound, TrafficPolicy

HELLO = records(hello(sni(b"api.example.com")), [40, 1, 200])
REQUEST = b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
OTHERS = 0x000A0C80
"""Bits of the mark that belong to others."""
TIMEOUT = 1.0


def routing(*classes: tuple[str, dict[str, object]], ids: ClassIds | None = None, ceils: Sequence[str] = ()) -> Routing:
    rates = [{"rate": "8kbit", "ceil": ceil} for ceil in ceils] or [{"rate": "8kbit"}] * len(classes)
    policy = TrafficPolicy.model_validate(
        {
            "total": "1Gbit",
            "classes": [{"name": n, "match": [m], **r} for (n, m), r in zip(classes, rates, strict=True)],
        }
    )
    return Routing(RoutingTable.from_policy(policy), ids or ClassIds.assign(n for n, _ in classes))


API, WEB, PORT, DEFAULT = 1, 2, 3, 255
NAMES = ClassIds.assign(["api", "web", "port"])
ROUTING = routing(("api", {"sni": "api.example.com"}), ("web", {"host": "web.example.com"}), ("port", {"port": 9000}))


def decided(class_id: int, others: int = 0) -> int:
    return class_mark(class_id).value | DECIDED.value | others


def chosen(class_id: int, others: int = 0) -> int:
    """The class counts, and packets are shown on."""
    return class_mark(class_id).value | CHOSEN.value | others


@dataclass
class Notes:
    """Remembers what was reported."""

    detections: list[Detection] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)

    def detected(self, detection: Detection, seconds: float) -> None:
        self.detections.append(detection)
        self.seconds.append(seconds)

    def stepped_aside(self, flow: bytes, known: DetectedFlow, chosen: ChosenClass) -> None:
        assert known.detection is self.detections[-1]
        assert len(flow) in (12, 36)
        self.bounds.append(known.bound)
        self.classes.append(chosen.class_name)

    def lost_lines(self, count: int) -> None:  # noqa: ARG002
        raise AssertionError("there is no access log")


class Told:
    """What the sockets know: by default that all has arrived."""

    def __init__(self) -> None:
        self.waiting: int | None = 0
        self.have: int | None = None

    def unacknowledged(self, flow: bytes) -> int | None:  # noqa: ARG002
        return self.waiting

    def received(self, flow: bytes) -> int | None:  # noqa: ARG002
        return self.have


class Wire:
    """A classifier, and the kernel's part: which packet is a connection's first, and the mark of its port's class."""

    def __init__(self, **limits: Any) -> None:
        self.notes = Notes()
        self.sockets = Told()
        self.classifier = Classifier(ROUTING, self.notes, self.sockets, detection_timeout=TIMEOUT, **limits)
        self.begun: set[bytes] = set()
        self.chosen: dict[bytes, int] = {}
        self.now = 100.0

    def begin(self, packet: bytes) -> None:
        """A SYN of this connection passed."""
        self.begun.discard(flow_of(packet))
        self.chosen.pop(flow_of(packet), None)

    def send(self, packet: bytes, port_class: int = 0, bound: Bound = Bound.OUTBOUND) -> int:
        """The mark that it goes on with."""
        flow = flow_of(packet)
        state = 0 if flow in self.begun else FIRST.value
        self.begun.add(flow)
        before = self.chosen.get(flow, port_class << 24 | state)
        mark = self.classifier.classify(packet, before | OTHERS, self.now, bound)
        self.chosen.pop(flow, None)
        if mark & STATE_MASK == CHOSEN.value:
            self.chosen[flow] = mark & OURS
        return mark


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("text", "mark"),
    [(HELLO, chosen(API)), (REQUEST, chosen(WEB)), (b"\0junk", decided(DEFAULT))],
    ids=["TLS", "HTTP", "opaque"],
)
def test_a_first_packet_that_tells_decides(text: bytes, mark: int, v6: bool) -> None:
    wire = Wire()
    assert wire.send(tcp_packet(text, v6=v6, options=bytes(12))) == mark | OTHERS
    assert wire.classifier.undecided == 0


def test_an_undecided_packet_keeps_the_class_of_its_port() -> None:
    wire = Wire()
    assert wire.send(tcp_packet(HELLO[:20]), port_class=7) == 7 << 24 | OTHERS
    assert wire.send(tcp_packet(HELLO[20:], seq=1020), port_class=7) == chosen(API, OTHERS)


def test_content_that_no_match_knows_goes_by_port() -> None:
    assert Wire().send(tcp_packet(b"SSH-2.0-x\r\n", port=9000)) == decided(PORT, OTHERS)


def test_packets_queued_before_the_decision_get_its_mark() -> None:
    wire = Wire()
    wire.send(tcp_packet(REQUEST))
    assert wire.send(tcp_packet(b"body", seq=1000 + len(REQUEST))) == decided(WEB, OTHERS)
    assert wire.send(tcp_packet(REQUEST)) == decided(WEB, OTHERS), "a retransmission"
    assert wire.notes.classes == ["web"]


def test_a_new_connection_of_the_same_ports_is_decided_afresh() -> None:
    wire = Wire()
    wire.send(tcp_packet(REQUEST))
    again = tcp_packet(HELLO, seq=1000)
    wire.begin(again)
    assert wire.send(again) == chosen(API, OTHERS)
    begun = tcp_packet(HELLO[:9])
    wire.begin(begun)
    wire.send(begun)
    wire.begin(begun)
    assert wire.send(tcp_packet(REQUEST)) == chosen(WEB, OTHERS), "what an unfinished one had shown is forgotten"
    assert wire.classifier.undecided == wire.classifier.held == 0


@settings(max_examples=300)
@given(st.data())
def test_any_order_any_cuts_any_repetition(data: st.DataObject) -> None:
    """Where the first byte's number is known (here by an empty first packet), segments may come in any order."""
    stream = HELLO + b"more of it" * 3
    edges = sorted(data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=8)))
    base = data.draw(st.sampled_from([1000, 2**32 - 5, 2**32 - 150]))
    pieces = list(zip([0, *edges], cut(stream, *edges), strict=True))
    again = data.draw(st.lists(st.sampled_from(pieces), max_size=4))
    order = data.draw(st.permutations([*pieces, *again]))
    wire = Wire()
    assert wire.send(tcp_packet(b"", seq=base)) == OTHERS
    marks = [wire.send(tcp_packet(piece, seq=base + offset), port_class=9) for offset, piece in order]
    undecided = sum(mark == 9 << 24 | OTHERS for mark in marks)
    shown = sum(mark == chosen(API, OTHERS) for mark in marks)
    then = [decided(API, OTHERS)] * (len(marks) - undecided - shown)
    assert marks == [9 << 24 | OTHERS] * undecided + [chosen(API, OTHERS)] * shown + then
    last = wire.send(tcp_packet(b"more", seq=base + len(stream)))
    assert last == decided(API, OTHERS), "what is no second hello has come, and has arrived"
    assert wire.notes.classes == ["api"]
    assert wire.classifier.held == wire.classifier.undecided == 0


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_nothing_at_all_makes_it_raise_or_touch_others_bits(packet: bytes, mark: int) -> None:
    assert Wire().classifier.classify(packet, mark, 0.0) & ~OURS == mark & ~OURS


@given(st.integers(0, 80), st.binary(min_size=1, max_size=3))
def test_a_damaged_packet_does_neither(at: int, damage: bytes) -> None:
    packet = bytearray(tcp_packet(REQUEST))
    packet[at : at + len(damage)] = damage
    mark = Wire().classifier.classify(bytes(packet), FIRST.value | OTHERS, 0.0)
    assert mark & ~OURS == OTHERS
    assert mark & STATE_MASK in (0, CHOSEN.value, DECIDED.value)


def test_a_connection_whose_beginning_went_by_unseen_is_decided_at_once() -> None:
    wire = Wire()
    middle = tcp_packet(b"in the middle of something", port=9000)
    wire.begun.add(flow_of(middle))
    assert wire.send(middle) == decided(PORT, OTHERS)
    assert wire.notes.detections == [Detection(Protocol.OPAQUE, Reason.MISSED)]


def test_data_in_the_syn_counts() -> None:
    wire = Wire()
    wire.send(tcp_packet(HELLO[:10], seq=999, flags=SYN))
    assert wire.send(tcp_packet(HELLO[10:], seq=1010)) == chosen(API, OTHERS)


def test_the_end_of_the_clients_bytes_ends_detection() -> None:
    wire = Wire()
    wire.send(tcp_packet(HELLO[:20]))
    assert wire.send(tcp_packet(HELLO[20:30], seq=1020, flags=FIN | ACK | PSH)) == decided(DEFAULT, OTHERS)
    assert wire.notes.detections == [Detection(Protocol.TLS, Reason.EOF)]


def test_a_fin_behind_a_gap_does_not() -> None:
    wire = Wire()
    wire.send(tcp_packet(HELLO[:20]))
    assert wire.send(tcp_packet(HELLO[50:], seq=1050, flags=FIN | ACK | PSH)) == OTHERS
    assert wire.send(tcp_packet(HELLO[20:50], seq=1020)) == chosen(API, OTHERS)


def test_the_detection_timeout_is_noticed_at_the_next_packet() -> None:
    wire = Wire()
    wire.send(tcp_packet(HELLO[:20]))
    wire.now += TIMEOUT / 2
    assert wire.send(tcp_packet(HELLO[20:30], seq=1020)) == OTHERS
    wire.now += TIMEOUT
    assert wire.send(tcp_packet(HELLO[30:40], seq=1030)) == decided(DEFAULT, OTHERS)
    assert wire.notes.detections == [Detection(Protocol.TLS, Reason.TIMEOUT)]
    assert wire.notes.seconds == [TIMEOUT * 1.5]


def test_openings_are_bounded_in_number() -> None:
    wire = Wire(max_openings=10)
    for port in range(100):
        wire.send(tcp_packet(HELLO[:20], client_port=port))
    assert wire.classifier.undecided == 10
    assert {d.reason for d in wire.notes.detections} == {Reason.LIMIT}
    assert wire.send(tcp_packet(HELLO[20:], seq=1020, client_port=0)) == decided(DEFAULT, OTHERS), "it was given up"
    assert wire.send(tcp_packet(HELLO[20:], seq=1020, client_port=99)) == chosen(API, OTHERS)


def test_openings_are_bounded_in_bytes() -> None:
    wire = Wire(max_held=5000)
    for port in range(100):
        wire.send(tcp_packet(REQUEST[:-2] + b"x: " + bytes(1000).replace(b"\0", b"y"), client_port=port))
        assert wire.classifier.held <= 5000 + 1100
    assert 0 < wire.classifier.undecided < 8


def test_who_says_nothing_more_is_given_up_in_time() -> None:
    wire = Wire()
    for port in (1, 2):
        wire.send(tcp_packet(HELLO[:20], client_port=port))
        wire.now += 10
    wire.now = 100.0 + TIMEOUT + PATIENCE_S
    wire.classifier.give_up_silent(wire.now)
    assert wire.classifier.undecided == 2, "not a moment too early"
    wire.now += 0.1
    wire.classifier.give_up_silent(wire.now)
    assert wire.classifier.undecided == 1
    assert wire.notes.detections == [Detection(Protocol.TLS, Reason.TIMEOUT)]
    assert wire.send(tcp_packet(HELLO[20:], seq=1020, client_port=1)) == decided(DEFAULT, OTHERS)
    assert wire.send(tcp_packet(HELLO[20:], seq=1020, client_port=2)) == chosen(API, OTHERS)
    assert (wire.classifier.undecided, wire.classifier.held) == (0, 0)


@pytest.mark.parametrize("ahead", [0, 20], ids=["in order", "behind a gap"])
def test_what_openings_add_later_is_bounded_too(ahead: int) -> None:
    """All of them begin while there is room."""
    wire = Wire(max_held=20_000)
    first, line = REQUEST[:-2], b"x: " + b"y" * 995 + b"\r\n"
    for port in range(20):
        wire.send(tcp_packet(first, client_port=port))
    assert wire.classifier.undecided == 20
    for turn in range(5):
        for port in range(20):
            wire.send(tcp_packet(line, seq=1000 + len(first) + ahead + turn * len(line), client_port=port))
            assert wire.classifier.held <= 20_000
    assert 0 < wire.classifier.undecided < 20
    assert {d.reason for d in wire.notes.detections} == {Reason.LIMIT}


def test_a_stream_that_never_ends_deciding_is_given_up() -> None:
    wire = Wire()
    first = REQUEST[:-2]
    wire.send(tcp_packet(first))
    sent, line = len(first), b"x: " + b"y" * 1400 + b"\r\n"
    for _ in range(100):
        mark = wire.send(tcp_packet(line, seq=1000 + sent))
        sent += len(line)
        if mark & STATE_MASK:
            break
    assert mark == decided(DEFAULT, OTHERS)
    assert sent < 80_000


def test_remembered_connections_are_bounded() -> None:
    wire = Wire(max_decided=10)
    for port in range(100):
        wire.send(tcp_packet(REQUEST, client_port=port))
    assert wire.classifier.cached == 10


def test_a_full_table_forgets_a_small_part_of_it_at_once() -> None:
    wire = Wire(max_decided=640)
    counts = []
    for port in range(1000):
        wire.send(tcp_packet(REQUEST, client_port=port))
        counts.append(wire.classifier.cached)
    assert (max(counts), min(counts[640:])) == (640, 630)
    kept = [wire.classifier.known(flow_of(tcp_packet(b"", client_port=port))) is not None for port in range(1000)]
    assert kept == [False] * (1000 - counts[-1]) + [True] * counts[-1]


# --- a second ClientHello --------------------------------------------------------------------------------------------

FAST, SLOW, BY_PORT = 1, 2, 3
SPEEDS = routing(
    ("fast", {"sni": "fast.example.com"}), ("slow", {"sni": "slow.example.com"}), ("port", {"port": 443}),
    ceils=["1Mbit", "16kbit", "80kbit"],
)  # fmt: skip
ONE, OTHER = records(hello(sni(b"fast.example.com"))), records(hello(sni(b"slow.example.com")))
NAMELESS, UNKNOWN = records(hello()), records(hello(sni(b"www.example.com")))
CCS, SEALED = b"\x14\x03\x03\0\x01\x01", b"\x17\x03\x03\x04\0" + bytes(1024)
KEY_EXCHANGE = records(b"\x10\0\0\x01x")


def speedy(**limits: int) -> Wire:
    wire = Wire(**limits)
    wire.classifier.routing = SPEEDS
    return wire


def marks_of(wire: Wire, *pieces: bytes, bound: Bound = Bound.OUTBOUND) -> list[int]:
    at, marks = 1000, []
    for piece in pieces:
        marks.append(wire.send(tcp_packet(piece, seq=at), bound=bound) & ~OTHERS)
        at += len(piece)
    return marks


@pytest.mark.parametrize(
    ("pieces", "marks"),
    [
        pytest.param([ONE, CCS + SEALED], [chosen(FAST), chosen(FAST)], id="TLS 1.3"),
        pytest.param([ONE, KEY_EXCHANGE], [chosen(FAST), chosen(FAST)], id="TLS 1.2"),
        pytest.param([ONE, OTHER], [chosen(FAST), chosen(SLOW)], id="another name"),
        pytest.param([ONE, CCS + OTHER], [chosen(FAST), chosen(SLOW)], id="another name behind ChangeCipherSpec"),
        pytest.param([ONE, CCS, OTHER[:9], OTHER[9:]], [*[chosen(FAST)] * 3, chosen(SLOW)], id="in pieces"),
        pytest.param([ONE[:9], ONE[9:], OTHER], [0, chosen(FAST), chosen(SLOW)], id="the first one in pieces"),
        pytest.param([ONE[:9], ONE[9:] + CCS + SEALED], [0, chosen(FAST)], id="all in one"),
        pytest.param([ONE + OTHER], [chosen(SLOW)], id="both in one packet"),
        pytest.param([ONE[:9], ONE[9:] + OTHER], [0, chosen(SLOW)], id="the end of one and the other in one packet"),
        pytest.param([ONE, ONE], [chosen(FAST), chosen(FAST)], id="the same name"),
        pytest.param([OTHER, ONE], [chosen(SLOW), chosen(SLOW)], id="a laxer name"),
        pytest.param([ONE, NAMELESS], [chosen(FAST), chosen(BY_PORT)], id="no name"),
        pytest.param([ONE, UNKNOWN], [chosen(FAST), chosen(BY_PORT)], id="a name that no match has"),
        pytest.param([NAMELESS, OTHER], [chosen(BY_PORT), chosen(SLOW)], id="a name after none"),
        pytest.param([ONE, records(b"\x01\0\0\x02no")], [chosen(FAST), chosen(BY_PORT)], id="one that cannot be read"),
    ],
)
@pytest.mark.parametrize("forgets", [False, True], ids=["", "restarted"])
def test_of_two_hellos_the_stricter_class_counts(pieces: list[bytes], marks: list[int], forgets: bool) -> None:
    wire = speedy()
    if not forgets:
        assert marks_of(wire, *pieces) == marks
        more = tcp_packet(b"more", seq=1000 + sum(map(len, pieces)))
        assert wire.send(more) & ~OTHERS == marks[-1] & ~STATE_MASK | DECIDED.value, "all has arrived"
        assert wire.classifier.pending == (0, 0)
    elif marks[-2:-1] and marks[-2] & STATE_MASK == CHOSEN.value and len(pieces) == 2:
        [before] = marks_of(wire, pieces[0])
        wire.classifier = Classifier(SPEEDS, wire.notes, wire.sockets, detection_timeout=TIMEOUT)
        after = wire.send(tcp_packet(pieces[1], seq=1000 + len(pieces[0]))) & ~OTHERS
        assert [before, after] == marks


def test_a_second_hello_is_told_of_only_if_it_changes_the_class() -> None:
    wire = speedy()
    marks_of(wire, ONE, OTHER)
    assert wire.notes.classes == ["fast", "slow"]
    assert [each.sni for each in wire.notes.detections] == ["fast.example.com", "slow.example.com"]
    same = speedy()
    marks_of(same, ONE, ONE)
    assert same.notes.classes == ["fast"]


def test_a_second_hello_behind_any_pause_and_sent_again() -> None:
    wire = speedy()
    marks_of(wire, ONE)
    wire.now += 3600
    wire.classifier.give_up_silent(wire.now)
    assert wire.send(tcp_packet(ONE)) == chosen(FAST, OTHERS), "a retransmission is no second hello"
    late = tcp_packet(OTHER[9:], seq=1009 + len(ONE))
    assert wire.send(late) == chosen(FAST, OTHERS), "behind a gap"
    assert wire.send(tcp_packet(OTHER[:9], seq=1000 + len(ONE))) == chosen(SLOW, OTHERS)
    assert wire.send(late) == chosen(SLOW, OTHERS)
    assert wire.send(tcp_packet(SEALED, seq=1000 + len(ONE + OTHER))) == decided(SLOW, OTHERS)


def test_a_second_hello_of_a_client_counts_too() -> None:
    wire = Wire()
    wire.classifier.routing = routing(
        ("fast", {"sni": "fast.example.com", "direction": "inbound"}),
        ("slow", {"sni": "slow.example.com", "direction": "inbound"}),
        ceils=["1Mbit", "16kbit"],
    )
    assert marks_of(wire, ONE, OTHER, bound=Bound.INBOUND) == [chosen(FAST), chosen(SLOW)]


def test_where_nothing_passes_unseen_a_packet_that_is_sent_again_is_the_first() -> None:
    """The kernel marked one that was dropped, since nobody read the queue."""
    wire = Wire(misses_nothing=True)
    first = tcp_packet(HELLO[:20])
    wire.begun.add(flow_of(first))
    assert wire.send(first, port_class=7) == 7 << 24 | OTHERS
    assert wire.send(tcp_packet(HELLO[20:], seq=1020), port_class=7) == chosen(API, OTHERS)
    other = tcp_packet(REQUEST, client_port=1)
    wire.begun.add(flow_of(other))
    assert wire.send(other) == chosen(WEB, OTHERS)
    assert wire.send(other) == chosen(WEB, OTHERS), "it is the first once only"


def test_where_packets_passed_unseen_the_port_may_be_stricter() -> None:
    """Else who fills the queue could hide a second hello."""
    wire = speedy()
    marks_of(wire, ONE)
    at = 1000 + len(ONE) + 500
    shown = 0
    while (mark := wire.send(tcp_packet(bytes(1400), seq=at + shown * 1400)) & ~OTHERS) == chosen(FAST):
        shown += 1
    assert mark == decided(BY_PORT)
    assert shown < 100, "no bulk is shown"


def test_chosen_connections_are_bounded_and_the_forgotten_ones_are_read_on() -> None:
    wire = speedy(max_chosen=10, max_held=5000)
    for port in range(100):
        wire.send(tcp_packet(ONE, client_port=port))
    assert wire.classifier.pending[0] <= 10
    assert wire.classifier.pending[1] <= 5000
    assert wire.send(tcp_packet(OTHER, seq=1000 + len(ONE), client_port=0)) == chosen(SLOW, OTHERS)
    assert wire.send(tcp_packet(CCS + SEALED, seq=1000 + len(ONE), client_port=1)) == chosen(FAST, OTHERS)


# --- connections that clients open -----------------------------------------------------------------------------------

BOTH_WAYS = routing(
    ("out", {"host": "web.example.com"}),
    ("in", {"host": "web.example.com", "direction": "inbound"}),
)
OUT, IN = 1, 2


def serving(**limits: int) -> Wire:
    wire = Wire(**limits)
    wire.classifier.routing = BOTH_WAYS
    return wire


@pytest.mark.parametrize(("bound", "class_id"), [(Bound.OUTBOUND, OUT), (Bound.INBOUND, IN)], ids=str)
@pytest.mark.parametrize("pieces", [1, 3])
def test_who_opened_a_connection_is_a_criterion(bound: Bound, class_id: int, pieces: int) -> None:
    wire = serving()
    size = -(-len(REQUEST) // pieces)
    for at in range(0, len(REQUEST), size):
        mark = wire.send(tcp_packet(REQUEST[at : at + size], seq=1000 + at), bound=bound)
    assert mark == chosen(class_id, OTHERS)
    assert wire.notes.bounds == [bound]


def test_what_clients_open_has_its_own_classes_whatever_ends_detection() -> None:
    wire = serving(max_openings=1)
    wire.classifier.routing = routing(
        ("out", {"port": 9000}), ("in", {"port": 9000, "source": f"{CLIENT}/32", "direction": "inbound"})
    )
    unseen = tcp_packet(b"?", port=9000, client_port=1)
    wire.begun.add(flow_of(unseen))
    assert wire.send(unseen, bound=Bound.INBOUND) == decided(IN, OTHERS), "missed"
    wire.send(tcp_packet(HELLO[:20], port=9000, client_port=2), bound=Bound.INBOUND)
    wire.send(tcp_packet(HELLO[:20], port=9000, client_port=3), bound=Bound.INBOUND)
    given_up = tcp_packet(HELLO[20:30], seq=1020, port=9000, client_port=2)
    assert wire.send(given_up, bound=Bound.INBOUND) == decided(IN, OTHERS)
    wire.now += TIMEOUT * 2
    late = tcp_packet(HELLO[20:30], seq=1020, port=9000, client_port=3)
    assert wire.send(late, bound=Bound.INBOUND) == decided(IN, OTHERS)
    assert [d.reason for d in wire.notes.detections] == [Reason.MISSED, Reason.LIMIT, Reason.TIMEOUT]
    assert set(wire.notes.bounds) == {Bound.INBOUND}


def test_destinations_of_both_ways_are_not_mixed_up() -> None:
    """One address and port, as a Pod has them that calls itself by its Service and is called by others."""
    wire = serving()
    for client_port, (bound, class_id) in enumerate([(Bound.OUTBOUND, OUT), (Bound.INBOUND, IN)] * 2):
        assert wire.send(tcp_packet(REQUEST, client_port=client_port), bound=bound) == chosen(class_id, OTHERS)


# --- a change of policy ---------------------------------------------------------------------------------------------

EVOLVED = NAMES.evolve(["api", "new"])
CHANGED = routing(("new", {"host": "web.example.com"}), ("api", {"sni": "other.example.com"}), ids=EVOLVED)


def test_a_late_packet_gets_the_class_of_the_policy_in_force() -> None:
    wire = Wire()
    wire.send(tcp_packet(REQUEST))
    wire.classifier.routing = CHANGED
    assert wire.send(tcp_packet(b"body", seq=1000 + len(REQUEST))) == decided(EVOLVED["new"], OTHERS)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [(REQUEST, WEB, EVOLVED["new"]), (HELLO, API, DEFAULT), (b"\0", DEFAULT, DEFAULT)],
    ids=["its class was renamed", "its name left its class", "the default class"],
)
def test_known_content_is_routed_again(text: bytes, before: int, after: int) -> None:
    wire = Wire()
    packet = tcp_packet(text)
    assert wire.send(packet) & ~STATE_MASK == decided(before, OTHERS) & ~STATE_MASK
    wire.classifier.routing = CHANGED
    marks = known_marks(CHANGED)
    assert wire.classifier.choose_again(flow_of(packet), decided(before, OTHERS), marks) == decided(after, OTHERS)


def test_known_content_is_routed_again_as_what_it_is() -> None:
    wire = serving()
    packet = tcp_packet(REQUEST)
    assert wire.send(packet, bound=Bound.INBOUND) == chosen(IN, OTHERS)
    turned = routing(("in", {"host": "web.example.com"}), ("out", {"host": "web.example.com", "direction": "inbound"}))
    wire.classifier.routing = turned
    marks = known_marks(turned)
    assert wire.classifier.choose_again(flow_of(packet), decided(1, OTHERS), marks) == decided(2, OTHERS)
    assert wire.send(tcp_packet(b"body", seq=1000 + len(REQUEST)), bound=Bound.INBOUND) == decided(2, OTHERS)


@pytest.mark.parametrize(
    ("before", "after"),
    [(API, API), (WEB, DEFAULT), (DEFAULT, DEFAULT)],
    ids=["a class that stays", "a class that is gone", "the default class"],
)
def test_forgotten_content_stays_where_it_is_while_that_exists(before: int, after: int) -> None:
    wire = Wire()
    wire.classifier.routing = CHANGED
    marks = known_marks(CHANGED)
    flow = flow_of(tcp_packet(b""))
    assert wire.classifier.choose_again(flow, decided(before, OTHERS), marks) == decided(after, OTHERS)
