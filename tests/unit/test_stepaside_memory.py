"""The thread that judges: memory goes back when many beginnings were awaited and few are left, and mistakes end nothing.

The queue is a list of what it brings here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count as counting
from typing import cast

import pytest
from first_bytes import hello, records, sni
from tcp_packets import tcp_packet
from test_stepaside_classifier import ROUTING, Notes

from datapath.protocols.detect import Detection, Reason
from datapath.stepaside import server
from datapath.stepaside.marks import FIRST
from datapath.stepaside.queue import PacketQueue
from datapath.stepaside.queue_messages import QueuedPacket
from sidecar.proxy.memory_trim import Trim
from traffic_policy.units import Duration

HELLO = records(hello(sni(b"api.example.com")), [40, 1, 200])
WOKEN: list[QueuedPacket] = []
"""What a queue gives when somebody has woken it."""


class Brings:
    """In place of :class:`PacketQueue`: ends the thread when there is no more."""

    def __init__(self, turns: list[list[QueuedPacket]], end: Callable[[], None]) -> None:
        self._turns: Iterator[list[QueuedPacket]] = iter(turns)
        self._end = end
        self.accepted = 0

    def receive(self) -> list[QueuedPacket]:
        turn = next(self._turns, None)
        if turn is None:
            self._end()
        return turn or WOKEN

    def accept(self, packet: QueuedPacket, mark: int) -> None:  # noqa: ARG002
        self.accepted += 1

    accept_as_read = accept


def beginnings(count: int) -> list[QueuedPacket]:
    return [QueuedPacket(b"", FIRST.value, tcp_packet(HELLO[:20], client_port=port)) for port in range(count)]


def ends(count: int) -> list[QueuedPacket]:
    """What is no second hello, and then a packet at which all before it has arrived."""
    rest, more = HELLO[20:] + b"\x17\x03\x03\0\x01x", 1000 + len(HELLO) + 6
    packets = [(rest, 1020), (b"more", more)]
    return [
        QueuedPacket(b"", 0, tcp_packet(data, seq=seq, client_port=port))
        for port in range(count)
        for data, seq in packets
    ]


@pytest.mark.parametrize(
    ("turns", "times"),
    [
        ([beginnings(1000), WOKEN, ends(1000), WOKEN, WOKEN], 1),
        ([beginnings(1000), WOKEN, ends(800), WOKEN], 0),
        ([beginnings(1000), WOKEN, ends(1000), WOKEN, beginnings(1000), WOKEN, ends(1000), WOKEN], 2),
        ([beginnings(500), WOKEN, ends(500), WOKEN], 0),
    ],
    ids=["once", "not while many are left", "again after many again", "not for few"],
)
def test_memory_goes_back(turns: list[list[QueuedPacket]], times: int) -> None:
    given: list[int] = []
    trim = Trim(lambda: given.append(queue.accepted))
    service = server.StepAside(1, ROUTING, Notes(), detection_timeout=Duration.parse("1s"), on_idle=trim.left)
    queue = Brings(turns, lambda: setattr(service, "_stopping", True))
    service._classify(cast("PacketQueue", queue))
    assert len(given) == times
    assert queue.accepted == sum(map(len, turns))


class Stumbles(Notes):
    """Makes a mistake with the first that it is told of."""

    def detected(self, detection: Detection, seconds: float) -> None:
        super().detected(detection, seconds)
        if len(self.detections) == 1:
            raise RuntimeError("a mistake")


def test_a_mistake_with_a_silent_connection_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Stumbles()
    service = server.StepAside(1, ROUTING, notes, detection_timeout=Duration.parse("1s"))
    queue = Brings([beginnings(2), WOKEN, WOKEN, beginnings(1)], lambda: setattr(service, "_stopping", True))
    monkeypatch.setattr(server, "monotonic", counting(step=100).__next__)
    service._classify(cast("PacketQueue", queue))
    assert queue.accepted == 3
    # The first, at which it stumbled; the other at the next turn; and the last one when there is no more.
    assert [each.reason for each in notes.detections] == [Reason.TIMEOUT] * 3
