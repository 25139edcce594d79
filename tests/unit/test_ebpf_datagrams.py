"""What programs show of QUIC is read in user space: verdicts by flow, and who may change one."""

from __future__ import annotations

import struct

import pytest
from first_bytes import hello, sni
from quic_datagrams import crypto, initial
from test_ebpf_beginnings import Seen

from datapath.ebpf.beginnings import Beginning
from datapath.ebpf.datagrams import Datagrams, FlowVerdict
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy

FAST, SLOW, PORT = 1, 2, 3
NONE = 0
FLOW = bytes([10, 0, 0, 1, 192, 0, 2, 1]) + struct.pack("!HH", 40_000, 443)


def routing(fast: str = "fast.example", slow: str = "slow.example") -> Routing:
    policy = TrafficPolicy.model_validate(
        {
            "total": "1Gbit",
            "classes": [
                {"name": "fast", "rate": "8kbit", "ceil": "8Mbit", "match": {"sni": fast}},
                {"name": "slow", "rate": "8kbit", "ceil": "1Mbit", "match": {"sni": slow}},
                {"name": "port", "rate": "8kbit", "match": {"port": 443, "protocol": "udp"}},
            ],
        }
    )
    return Routing(RoutingTable.from_policy(policy), ClassIds.assign(c.name for c in policy.classes))


def asking_for(name: str, id_: bytes = b"12345678") -> bytes:
    return initial(crypto(0, hello(sni(name.encode()))), to=id_)


class Reader:
    def __init__(self) -> None:
        self.seen = Seen()
        self.datagrams = Datagrams(routing(), self.seen, detection_timeout=1.0)
        self.now = 100.0

    def show(self, data: bytes, has: int = NONE, flow: bytes = FLOW) -> list[int]:
        """The class ids that this flow gets."""
        found = self.datagrams.take(Beginning(0, 7, 0, 0, flow, data, udp=True, class_id=has), self.now)
        assert all(each.flow == flow for each in found)
        return [each.class_id for each in found]


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_a_name_decides(reader: Reader) -> None:
    assert reader.show(asking_for("fast.example")) == [FAST]
    assert reader.seen.classes == ["fast"]
    assert reader.datagrams.undecided == 0


def test_what_has_no_known_name_has_the_class_of_its_port(reader: Reader) -> None:
    assert reader.show(asking_for("other.example")) == [PORT]
    assert reader.show(b"\xc0" + bytes(1300), flow=FLOW[::-1]) == [], "no QUIC: the program knows the port"


def test_a_hello_in_two_datagrams_is_awaited(reader: Reader) -> None:
    message = hello(sni(b"fast.example"))
    assert reader.show(initial(crypto(0, message[:40]))) == []
    assert reader.datagrams.undecided == 1
    assert reader.show(initial(crypto(40, message[40:]), number=1)) == [FAST]


def test_a_half_hello_is_given_up(reader: Reader) -> None:
    assert reader.show(initial(crypto(0, hello(sni(b"fast.example"))[:40]))) == []
    reader.now += 100
    reader.datagrams.give_up_silent(reader.now)
    assert reader.datagrams.undecided == 0


@pytest.mark.parametrize("has", [FAST, NONE])
def test_a_known_flow_only_gets_stricter(reader: Reader, has: int) -> None:
    """Whether the datagram was shown before the answer was there or after it."""
    assert reader.show(asking_for("fast.example")) == [FAST]
    assert reader.show(asking_for("slow.example", b"abcdefgh"), has) == [SLOW]
    assert reader.show(asking_for("fast.example", b"87654321"), SLOW) == []
    assert reader.show(asking_for("fast.example", b"x7654321"), NONE) == [SLOW], "it was shown before"
    assert reader.show(asking_for("other.example", b"y7654321"), SLOW) == []


def test_so_does_one_that_an_earlier_process_has_decided(reader: Reader) -> None:
    assert reader.show(asking_for("fast.example"), SLOW) == []
    assert reader.show(asking_for("slow.example"), FAST) == [SLOW]


def test_a_new_policy_decides_what_is_remembered(reader: Reader) -> None:
    reader.show(asking_for("fast.example"))
    assert reader.datagrams.follow(routing()) == []
    assert reader.datagrams.follow(routing("new.example", "fast.example")) == [FlowVerdict(FLOW, SLOW)]
    assert reader.datagrams.follow(routing("new.example")) == [FlowVerdict(FLOW, PORT)]


def test_a_verdict_is_an_entry_of_the_map() -> None:
    mapped = bytes(10) + b"\xff\xff"
    key = mapped + FLOW[:4] + mapped + FLOW[4:]
    assert FlowVerdict(FLOW, 3).entry == (key, struct.pack("=I", 3))
    six = bytes(range(36))
    assert FlowVerdict(six, 3).entry[0] == six
