"""From datagrams to marks: whatever the order, the cuts and the losses, the class is that of the strictest hello."""

from __future__ import annotations

import itertools

import pytest
from first_bytes import alpn, extension, hello, sni
from hypothesis import given, settings
from hypothesis import strategies as st
from quic_datagrams import ID, PING, crypto, initial, long_packet, odd_datagrams
from test_stepaside_classifier import DEFAULT, OTHERS, TIMEOUT, Notes, Told, decided, routing
from udp_packets import udp_packet

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.quic_crypto import KEYS_SIZE
from datapath.protocols.quic_packets import VERSION_1, VERSION_2, PacketType
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from datapath.stepaside.class_cache import known_marks
from datapath.stepaside.classifier import Classifier
from datapath.stepaside.marks import DECIDED, FIRST, OURS, SHOWN
from datapath.stepaside.pending_flows import PATIENCE_S
from datapath.stepaside.quic_flows import STRICT_S, QuicFlows
from traffic_policy.marks import STATE_MASK, ClassIds, class_id_of
from traffic_policy.policy import Bound, TrafficPolicy, TransportProtocol

VIDEO, API, PORT = 1, 2, 3
ROUTING = routing(
    ("video", {"sni": "video.example"}),
    ("api", {"sni": "api.example"}),
    ("port", {"port": 443, "protocol": "udp", "cidr": "203.0.113.9"}),
)
UDP = TransportProtocol.UDP


def opening(name: bytes, *, to: bytes = ID, version: int = VERSION_1, cuts: tuple[int, ...] = (900,)) -> list[bytes]:
    """The datagrams of a hello that takes several, as one with a post-quantum key share does."""
    message = hello(extension(51, b"k" * 1300), sni(name), alpn(b"h3"))
    places = [0, *cuts, len(message)]
    return [
        initial(crypto(start, message[start:end]), to=to, version=version, number=number)
        for number, (start, end) in enumerate(itertools.pairwise(places))
    ]


SMALL = hello(sni(b"video.example"))
WHOLE = initial(crypto(0, SMALL))
SHORT = b"\x41" + bytes(60)


class Kernel:
    """A classifier, and what the rules do: which datagrams are shown, in which state, and what is saved."""

    def __init__(self, in_force: Routing = ROUTING) -> None:
        self.notes = Notes()
        self.classifier = Classifier(in_force, self.notes, Told(), detection_timeout=TIMEOUT)
        self.connmarks: dict[bytes, int] = {}
        self.written: dict[bytes, int] = {}
        self.shown = 0
        self.now = 100.0

    def burst(self, datagrams: list[bytes]) -> list[int]:
        """Sent before the first has left: each has a new entry, and those of all but the first are thrown away."""
        classes = [self.send(datagrams[0])]
        for datagram in datagrams[1:]:
            kept = dict(self.connmarks)
            self.connmarks.clear()
            classes.append(self.send(datagram))
            self.connmarks = kept | self.written
        return classes

    def send(
        self, datagram: bytes, *, client_port: int = 40000, v6: bool = False, bound: Bound = Bound.OUTBOUND
    ) -> int:
        """The class that a datagram leaves in."""
        packet = udp_packet(datagram, client_port=client_port, v6=v6)
        size, at = (32, 8) if v6 else (8, 12)
        flow = packet[at : at + size] + packet[at + size : at + size + 4]
        connmark = self.connmarks.get(flow, 0)
        by_port = PORT << 24
        if connmark & STATE_MASK == DECIDED.value:
            if not (len(datagram) >= 1200 and datagram[0] & 0xC0 == 0xC0):
                return class_id_of(connmark)
            state = connmark & OURS
        else:
            state = by_port | (0 if connmark & STATE_MASK == SHOWN.value else FIRST.value)
            self.connmarks[flow] = SHOWN.value
        self.shown += 1
        mark = self.classifier.classify(packet, state | OTHERS, self.now, bound)
        assert mark & ~OURS == OTHERS
        self.written = {moved: to & OURS for moved, to in self.classifier.quic.moved}
        self.connmarks |= self.written
        self.classifier.quic.moved.clear()
        if self.connmarks[flow] & STATE_MASK == SHOWN.value and mark & STATE_MASK == DECIDED.value:
            self.connmarks[flow] = mark & OURS
        return class_id_of(mark)

    def forget(self) -> None:
        """Nothing was sent for longer than conntrack remembers."""
        self.connmarks.clear()


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("version", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def test_a_name_in_the_second_datagram_decides_and_the_rest_is_not_shown(version: int, v6: bool) -> None:
    kernel = Kernel()
    first, second = opening(b"video.example", version=version)
    assert kernel.send(first, v6=v6) == PORT
    assert kernel.send(second, v6=v6) == VIDEO
    assert [kernel.send(SHORT, v6=v6) for _ in range(5)] == [VIDEO] * 5
    assert kernel.shown == 2
    assert kernel.notes.detections == [Detection(Protocol.QUIC, Reason.FOUND, sni="video.example", alpn=("h3",))]


def test_datagrams_that_are_sent_before_the_first_has_left() -> None:
    kernel = Kernel()
    assert kernel.burst(opening(b"video.example", cuts=(500, 900))) == [PORT, PORT, VIDEO]
    assert [kernel.send(SHORT) for _ in range(3)] == [VIDEO] * 3
    assert kernel.shown == 3
    assert kernel.notes.classes == ["video"]


def test_a_hello_that_never_ended_is_not_mixed_with_a_later_one() -> None:
    kernel = Kernel()
    kernel.send(opening(b"video.example")[0])
    kernel.forget()
    kernel.now += 31
    assert [kernel.send(datagram) for datagram in opening(b"api.example", to=b"another one")] == [PORT, API]


def test_a_second_hello_that_never_ended_leaves_the_flow_in_its_class() -> None:
    kernel = Kernel()
    kernel.send(WHOLE)
    kernel.send(opening(b"api.example", to=b"second one")[0])
    kernel.now += TIMEOUT + 1
    assert [kernel.send(SHORT), kernel.send(opening(b"api.example", to=b"third one")[0])] == [VIDEO, VIDEO]
    assert kernel.send(initial(crypto(0, hello(sni(b"api.example"))), to=b"a fourth one")) == API


def test_the_order_of_the_datagrams_does_not_matter() -> None:
    kernel = Kernel()
    second, first = opening(b"video.example")
    assert (kernel.send(first), kernel.send(second)) == (PORT, VIDEO)


def test_several_datagrams_in_one_packet() -> None:
    """UDP_SEGMENT: with PADDING in the packets, and with something else behind them."""
    assert Kernel().send(b"".join(opening(b"video.example"))) == VIDEO
    message = hello(extension(51, b"k" * 1300), sni(b"video.example"))
    padded = [long_packet(crypto(at, message[at : at + 800]), number=at).ljust(1250, b"\0") for at in (0, 800)]
    assert Kernel().send(b"".join(padded)) == VIDEO


def test_what_only_begins_like_the_first_datagram_ends_the_reading() -> None:
    first = initial(crypto(0, SMALL[:20]))
    odd = bytes([0xC0]) + first[1 : 6 + len(ID)] + bytes([21]) + bytes(1300)  # an id that is too long
    assert Kernel().send(first + odd) == PORT
    assert Kernel().send(first + odd + initial(crypto(20, SMALL[20:]), number=1)) == VIDEO


def test_what_is_coalesced_with_an_initial_is_passed_over() -> None:
    early = long_packet(b"\x08" + bytes(30), kind=PacketType.ZERO_RTT)
    assert Kernel().send(long_packet(crypto(0, SMALL)) + early + bytes(1200)) == VIDEO


def test_early_data_that_comes_first_waits_for_the_hello() -> None:
    kernel = Kernel()
    assert kernel.send(long_packet(b"\x08" + bytes(1200), kind=PacketType.ZERO_RTT)) == PORT
    assert kernel.send(WHOLE) == VIDEO


def test_a_version_that_is_refused_waits_for_the_next() -> None:
    kernel = Kernel()
    assert kernel.send(b"\xca\x1a\x2a\x3a\x4a\x08" + bytes(1300)) == PORT
    assert kernel.send(WHOLE) == VIDEO


def test_a_hello_that_is_repeated_behind_a_retry_is_told_once() -> None:
    kernel = Kernel()
    assert kernel.send(WHOLE) == VIDEO
    assert kernel.send(initial(crypto(0, SMALL), to=b"of the server", token=b"t" * 30)) == VIDEO
    assert kernel.notes.classes == ["video"]


@pytest.mark.parametrize(
    ("datagram", "detection"),
    [
        pytest.param(b"\0\x01\0\x08" + bytes(16), Detection(Protocol.OPAQUE, Reason.NOT_THIS), id="another protocol"),
        pytest.param(b"", Detection(Protocol.OPAQUE, Reason.NOT_THIS), id="nothing"),
        pytest.param(SHORT, Detection(Protocol.OPAQUE, Reason.NOT_THIS), id="in the middle of a connection"),
        pytest.param(
            initial(crypto(0, b"\x02" + bytes(60))), Detection(Protocol.QUIC, Reason.MALFORMED), id="malformed"
        ),
    ],
)
def test_what_cannot_be_read_goes_by_port_and_is_not_shown_again(datagram: bytes, detection: Detection) -> None:
    kernel = Kernel()
    assert [kernel.send(datagram), kernel.send(SHORT)] == [PORT, PORT]
    assert (kernel.shown, kernel.notes.detections) == (1, [detection])


def test_a_client_that_goes_on_without_its_hello_having_been_seen_whole_goes_by_port() -> None:
    kernel = Kernel()
    assert [kernel.send(opening(b"video.example")[0]), kernel.send(SHORT)] == [PORT, PORT]
    assert kernel.notes.detections == [Detection(Protocol.QUIC, Reason.MISSED)]


def test_after_the_timeout_it_goes_by_port() -> None:
    kernel = Kernel()
    one, two, three = opening(b"video.example", cuts=(500, 900))
    kernel.send(one)
    kernel.now += TIMEOUT + 0.1
    assert (kernel.send(two), kernel.send(three)) == (PORT, PORT)
    assert kernel.notes.detections == [Detection(Protocol.QUIC, Reason.TIMEOUT)]


def test_a_flow_that_was_silent_gets_its_class_back() -> None:
    kernel = Kernel()
    assert kernel.send(WHOLE) == VIDEO
    kernel.forget()
    kernel.now += 10_000
    assert (kernel.send(SHORT), kernel.send(SHORT)) == (VIDEO, VIDEO)
    assert kernel.shown == 2
    assert kernel.notes.classes == ["video"], "it is no new connection"


@pytest.mark.parametrize("silent", [False, True], ids=["at once", "after a silence"])
def test_the_connection_that_began_last_decides_for_a_socket(silent: bool) -> None:
    kernel = Kernel()
    assert kernel.send(WHOLE) == VIDEO
    if silent:
        kernel.forget()
    first, second = opening(b"api.example", to=b"second connection")
    assert kernel.send(first) == VIDEO, "until its name is known"
    assert (kernel.send(second), kernel.send(SHORT)) == (API, API)
    assert kernel.notes.classes == ["video", "api"]


LANES = Routing(
    RoutingTable.from_policy(
        TrafficPolicy.model_validate(
            {
                "total": "1Gbit",
                "classes": [
                    {"name": "fast", "rate": "10Mbit", "match": [{"sni": "fast.example"}]},
                    {"name": "slow", "rate": "1Mbit", "ceil": "2Mbit", "match": [{"sni": "slow.example"}]},
                    {"name": "port", "rate": "1Mbit", "ceil": "9Mbit", "match": [{"port": 443}]},
                ],
            }
        )
    ),
    ClassIds.assign(["fast", "slow", "port"]),
)
FAST, SLOW = 1, 2
TO_FAST, TO_SLOW = hello(sni(b"fast.example")), hello(sni(b"slow.example"))


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        pytest.param(initial(crypto(0, TO_FAST), to=b"decoy one"), initial(crypto(0, TO_SLOW)), id="two connections"),
        pytest.param(initial(crypto(0, TO_FAST)), initial(crypto(0, TO_SLOW)), id="of the same id"),
        pytest.param(
            initial(crypto(0, TO_FAST), to=b"decoy one"),
            long_packet(bytes(40), kind=PacketType.ZERO_RTT) + initial(crypto(0, TO_SLOW)),
            id="behind early data",
        ),
        pytest.param(
            initial(crypto(0, TO_FAST), to=b"decoy one"),
            long_packet(bytes(40), kind=PacketType.HANDSHAKE) + initial(crypto(0, TO_SLOW)),
            id="behind a Handshake packet",
        ),
    ],
)
def test_a_flow_of_two_names_is_held_to_the_stricter(fast: bytes, slow: bytes) -> None:
    """One of the two may be a decoy that never reached the server."""
    for order in ([fast, slow], [slow, fast]):
        kernel = Kernel(LANES)
        for datagram in order:
            kernel.send(datagram)
        assert [kernel.send(SHORT), kernel.send(fast), kernel.send(SHORT)] == [SLOW] * 3
        kernel.classifier = Classifier(LANES, kernel.notes, Told(), detection_timeout=TIMEOUT)
        assert [kernel.send(fast), kernel.send(SHORT)] == [SLOW] * 2, "to another classifier"


def test_after_a_long_silence_a_flow_is_free() -> None:
    kernel = Kernel(LANES)
    assert kernel.send(initial(crypto(0, TO_SLOW))) == SLOW
    kernel.forget()
    kernel.now += STRICT_S / 2
    assert kernel.send(initial(crypto(0, TO_FAST), to=b"another one")) == SLOW
    kernel.forget()
    kernel.now += STRICT_S
    assert kernel.send(initial(crypto(0, TO_FAST), to=b"a third one")) == FAST


def test_two_halves_of_a_hello_that_contradict_each_other_go_by_port() -> None:
    kernel = Kernel(LANES)
    fast, slow = (hello(sni(name), extension(51, b"k" * 1300)) for name in (b"fast.example", b"slow.example"))
    halves = [crypto(0, fast[:900]), crypto(0, slow[:700]), crypto(700, slow[700:])]
    assert [kernel.send(initial(half, number=number)) for number, half in enumerate(halves)] == [PORT] * 3


def test_later_initials_of_a_connection_change_nothing() -> None:
    """They are addressed to an id of the server's; a repeated first one is to that of the client's."""
    kernel = Kernel()
    kernel.send(WHOLE)
    answer = initial(PING + bytes(8), to=b"of the server", keys_of=ID, number=2)
    assert [kernel.send(answer), kernel.send(WHOLE), kernel.send(SHORT)] == [VIDEO] * 3
    assert (kernel.notes.classes, kernel.classifier.quic.undecided) == (["video"], 0)


LATER = initial(PING + bytes(8), to=b"of the server", keys_of=ID, number=2)
ODD = b"\xca\x1a\x2a\x3a\x4a\x15" + bytes(1300)


@pytest.mark.parametrize("datagram", [LATER, ODD], ids=["a later Initial", "no Initial at all"])
def test_what_a_classifier_before_this_one_decided_stays(datagram: bytes) -> None:
    kernel = Kernel()
    kernel.send(WHOLE)
    ((flow, mark),) = kernel.connmarks.items()
    classifier = kernel.classifier = Classifier(ROUTING, kernel.notes, Told(), detection_timeout=TIMEOUT)
    assert [kernel.send(datagram), kernel.send(SHORT)] == [VIDEO, VIDEO]
    assert (classifier.quic.undecided, classifier.quic.known(flow)) == (0, None)
    assert classifier.choose_again(flow, mark, known_marks(ROUTING), UDP) == mark
    assert [kernel.send(each) for each in opening(b"api.example", to=b"second one")] == [VIDEO, API]


def test_a_second_hello_that_had_to_give_way_leaves_the_flow_in_its_class() -> None:
    kernel = Kernel()
    flows = quic_flows(kernel, max_openings=1)
    kernel.send(WHOLE)
    ((flow, mark),) = kernel.connmarks.items()
    kernel.send(opening(b"api.example", to=b"second one")[0])
    kernel.send(opening(b"api.example")[0], client_port=50_000)
    assert flows.undecided == 1
    assert kernel.classifier.choose_again(flow, mark, known_marks(ROUTING), UDP) == mark


def test_a_name_of_no_class_is_the_ports_class() -> None:
    assert Kernel().send(initial(crypto(0, hello(sni(b"other.example"))))) == PORT


def test_a_new_policy_chooses_again_by_the_name_and_else_by_what_is_left() -> None:
    kernel = Kernel()
    kernel.send(WHOLE)
    ((flow, mark),) = kernel.connmarks.items()
    fresh = routing(("other", {"sni": "video.example"}), ("video", {"port": 1}))
    classifier = kernel.classifier
    classifier.routing = fresh
    marks = known_marks(fresh)
    assert classifier.choose_again(flow, mark | OTHERS, marks, UDP) == decided(1, OTHERS)
    assert classifier.choose_again(flow, mark, marks) == mark, "a TCP connection of the same name is another"
    assert class_id_of(classifier.choose_again(b"x" * 12, decided(9), marks, UDP)) == DEFAULT
    assert kernel.send(WHOLE) == 1, "and a datagram under way"


def test_tcp_and_udp_of_the_same_addresses_are_two() -> None:
    kernel = Kernel()
    kernel.send(WHOLE)
    assert (kernel.classifier.cached, kernel.classifier.quic.cached) == (0, 1)


def quic_flows(kernel: Kernel, **limits: int) -> QuicFlows:
    flows = kernel.classifier.quic = QuicFlows(kernel.notes, detection_timeout=TIMEOUT, **limits)
    return flows


@pytest.mark.parametrize("limits", [{"max_openings": 3}, {"max_held": 4 * KEYS_SIZE}], ids=["flows", "bytes"])
def test_what_is_awaited_is_bounded_and_what_is_given_up_goes_by_port(limits: dict[str, int]) -> None:
    kernel = Kernel()
    flows = quic_flows(kernel, **limits)
    first, second = opening(b"video.example")
    for port in range(50_000, 50_020):
        assert kernel.send(first, client_port=port) == PORT
    assert 0 < flows.undecided <= 5
    assert flows.held < 6 * (KEYS_SIZE + 2000)
    assert kernel.send(second, client_port=50_019) == VIDEO
    assert kernel.send(second, client_port=50_000) == PORT
    assert {d.reason for d in kernel.notes.detections} == {Reason.FOUND, Reason.LIMIT}


def test_a_hello_that_is_never_whole_is_given_up_in_time() -> None:
    kernel = Kernel()
    flows = quic_flows(kernel)
    first, second = opening(b"video.example")
    for port in (50_000, 50_001):
        kernel.send(first, client_port=port)
        kernel.now += 10
    kernel.now = 100.0 + TIMEOUT + PATIENCE_S
    kernel.classifier.give_up_silent(kernel.now)
    assert flows.undecided == 2, "not a moment too early"
    kernel.classifier.give_up_silent(kernel.now + 0.1)
    assert (flows.undecided, kernel.notes.detections) == (1, [Detection(Protocol.QUIC, Reason.TIMEOUT)])
    assert (kernel.send(second, client_port=50_000), flows.undecided) == (PORT, 2)
    kernel.classifier.give_up_silent(kernel.now + TIMEOUT + PATIENCE_S + 0.1)
    assert (flows.undecided, flows.held) == (0, 0)


def test_a_second_hello_that_is_never_whole_leaves_the_flow_in_its_class_for_good() -> None:
    kernel = Kernel()
    flows = quic_flows(kernel)
    kernel.send(WHOLE)
    kernel.send(opening(b"api.example", to=b"second one")[0])
    kernel.classifier.give_up_silent(kernel.now + TIMEOUT + PATIENCE_S + 1)
    assert (flows.undecided, flows.held, kernel.notes.classes) == (0, 0, ["video"])
    assert kernel.send(SHORT) == VIDEO


def test_what_openings_add_later_is_bounded_too() -> None:
    """All of them begin while there is room, and then each has a byte far from its hello's beginning."""
    kernel = Kernel()
    flows = quic_flows(kernel, max_held=200_000)
    first, _ = opening(b"video.example")
    for port in range(50_000, 50_020):
        kernel.send(first, client_port=port)
    assert flows.undecided == 20
    far = initial(crypto(16_000, b"x"), number=7)
    for port in range(50_000, 50_020):
        kernel.send(far, client_port=port)
        assert flows.held <= 200_000
    assert 0 < flows.undecided < 20
    assert {d.reason for d in kernel.notes.detections} == {Reason.LIMIT}


def test_the_flows_that_were_needed_longest_ago_are_forgotten() -> None:
    kernel = Kernel()
    flows = quic_flows(kernel, max_decided=2)
    for port in (1, 2):
        kernel.send(WHOLE, client_port=port)
    kernel.forget()
    kernel.send(SHORT, client_port=1)
    kernel.send(WHOLE, client_port=3)
    kernel.forget()
    assert flows.cached == 2
    assert [kernel.send(SHORT, client_port=port) for port in (1, 2)] == [VIDEO, PORT]


@settings(max_examples=30)
@given(st.lists(st.tuples(odd_datagrams(), st.integers(1, 3), st.booleans()), max_size=15))
def test_nothing_raises_and_nothing_is_held_for_what_is_decided(sent: list[tuple[bytes, int, bool]]) -> None:
    kernel = Kernel()
    flows = quic_flows(kernel, max_openings=2)
    for datagram, port, silence in sent:
        if silence:
            kernel.forget()
        assert kernel.send(datagram, client_port=port) in (VIDEO, API, PORT, DEFAULT)
        assert flows.undecided <= 2
        assert flows.held == sum(opening.reader.held for opening in flows._pending._by_flow.values())


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, 1300), max_size=4), data=st.data())
def test_however_a_hello_is_cut_and_mixed_its_name_decides(cuts: set[int], data: st.DataObject) -> None:
    datagrams = opening(b"video.example", cuts=tuple(sorted(cuts)))
    order = data.draw(st.permutations(datagrams + datagrams[:1]))
    kernel = Kernel()
    seen = [kernel.send(datagram) for datagram in order]
    assert seen[-1] == VIDEO
    assert kernel.notes.classes == ["video"]
