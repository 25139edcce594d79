"""Workers: how many, their shares, their messages, their sums. A pool of them is in tests/kernel/test_workers_pool.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from socket import SocketType
from typing import Any

import pytest
import trio
import trio.testing
from proxy_harness import routing

from daemon.errors import PortInUseError
from datapath.errors import PrivilegeError
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.routing.flow import Destination
from sidecar.observability.counters import ConnectionCounters
from sidecar.observability.metrics import Metrics, Workers
from sidecar.proxy.server import ServerSettings
from sidecar.transport.observer import ConnectionOutcome, ConnectionSummary, Refusal
from sidecar.workers.forkserver import Forked, ForkServer
from sidecar.workers.handle import WorkerHandle
from sidecar.workers.messages import Ask, Begin, Drain, FinalReport, Follow, ToWorker, Unframer, WorkerReport, frame
from sidecar.workers.pool import WorkerPool, _Place
from sidecar.workers.sizing import cgroup_cpus, shares, worker_count
from traffic_policy.settings import Datapath
from traffic_policy.units import Duration

TLS = Detection(Protocol.TLS, Reason.FOUND, sni="a.example.com")


@pytest.mark.parametrize(
    ("total", "parts", "each"),
    [(10_000, 4, [2500] * 4), (10, 3, [4, 3, 3]), (3, 3, [1, 1, 1]), (7, 1, [7])],
    ids=str,
)
def test_shares_add_up(total: int, parts: int, each: list[int]) -> None:
    assert shares(total, parts) == each


def test_a_pool_that_cannot_listen_for_clients_listens_for_nobody() -> None:
    """As without privileges, which the inbound port takes; with them it is taken."""
    opened: list[SocketType] = []

    def listen(_port: int, _families: Sequence[int], count: int) -> list[list[SocketType]]:
        opened.extend(SocketType() for _ in range(count))
        return [[each] for each in opened]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServerSettings(port=0, inbound_port=taken.getsockname()[1], ipv6=False)
        forks = ForkServer(0, taken)  # asked for nothing
        pool = WorkerPool(forks, 2, taken, settings, routing(), ConnectionCounters(), listen=listen)
        with pytest.raises((PortInUseError, PrivilegeError)):
            trio.run(pool.run)
    assert [each.fileno() for each in opened] == [-1, -1]


class _Answering(WorkerHandle):
    """Answers everything after so many seconds."""

    def __init__(self, nursery: trio.Nursery, seconds: float) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        super().__init__(Forked(0, 0), ours)
        self._nursery = nursery
        self._seconds = seconds

    def post(self, message: ToWorker) -> None:
        assert isinstance(message, Ask)
        self._nursery.start_soon(self._answer, message.serial)

    async def _answer(self, serial: int) -> None:
        await trio.sleep(self._seconds)
        self._answered = serial
        news, self._news = self._news, trio.Event()
        news.set()


def test_only_who_does_not_answer_is_named_whoever_else_asks_meanwhile() -> None:
    async def main() -> None:  # on a clock that jumps: nobody sleeps for real
        with socket.create_server(("127.0.0.1", 0)) as lock:
            settings = ServerSettings(port=0, ipv6=False)
            pool = WorkerPool(ForkServer(0, lock), 2, lock, settings, routing(), ConnectionCounters())
            async with trio.open_nursery() as nursery:
                for number, seconds in enumerate((60.0, 0.1), 1):
                    pool._places.append(_Place(number, [], settings, _Answering(nursery, seconds)))

                async def ask() -> None:
                    assert await pool.ask() == [1]

                async with trio.open_nursery() as asking:
                    asking.start_soon(ask)
                    await trio.testing.wait_all_tasks_blocked()
                    clock.jump(0.95)  # who has asked first is patient for 50 ms more
                    asking.start_soon(ask)
                nursery.cancel_scope.cancel()

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [
        ({"a/b": "200000 100000"}, 2),
        ({"a/b": "150000 100000"}, 2),
        ({"a/b": "20000 100000"}, 1),
        ({"a/b": "max 100000", "a": "300000 100000"}, 3),
        ({"a/b": "400000 100000", "a": "100000 100000"}, 1),
        ({"a/b": "max 100000"}, 1 << 20),
        ({}, 1 << 20),
    ],
    ids=["two", "begun", "less than one", "the parent's", "the least", "no limit", "no file"],
)
def test_cpus_of_a_cgroup(tmp_path: Path, limits: dict[str, str], cpus: int) -> None:
    own, cgroups = tmp_path / "own", tmp_path / "cgroups"
    (cgroups / "a/b").mkdir(parents=True)
    own.write_text("12:cpu:/x\n0::/a/b\n")
    for folder, text in limits.items():
        (cgroups / folder / "cpu.max").write_text(text + "\n")
    assert cgroup_cpus(own, cgroups) == cpus


def test_what_is_chosen_by_itself() -> None:
    assert worker_count(3, 10_000, Datapath.RELAY) == 3
    assert worker_count("auto", 10_000, Datapath.STEP_ASIDE) == 1
    assert worker_count("auto", 1, Datapath.RELAY) == 1
    assert 1 <= worker_count("auto", 10_000, Datapath.RELAY) <= len(os.sched_getaffinity(0))


def counted() -> ConnectionCounters:
    """A connection of each fate."""
    counters = ConnectionCounters()
    for name in ("web", "web", "api"):
        counters.detected(TLS, 0.0002)
        counters.routed(name, Protocol.TLS)
    destination = Destination.parse("192.0.2.1", 443)
    client = ("192.0.2.2", 40000)
    counters.closed(ConnectionSummary(client, destination, "web", TLS, 10, 2000, 1.0, ConnectionOutcome.COMPLETE))
    counters.refused(Refusal.NOT_DIVERTED)
    return counters


def messages() -> list[Any]:
    r = routing()
    return [
        Begin(2, ServerSettings(port=15101, max_connections=5)),
        Follow(1, r.table, r.ids),
        Ask(2),
        Drain(Duration.from_seconds(25)),
        WorkerReport(2, 7, counted()),
        FinalReport(3, counted()),
    ]


def same(one: Any, other: Any) -> bool:
    """Equal; ids are a mapping, which has an equality of its own."""
    if isinstance(one, Follow) and isinstance(other, Follow):
        return (one.serial, one.table, dict(one.ids)) == (other.serial, other.table, dict(other.ids))
    return bool(one == other)


@pytest.mark.parametrize("step", [1, 7, 1 << 20], ids=["byte by byte", "in pieces", "all at once"])
def test_messages_arrive_as_they_were_sent(step: int) -> None:
    sent = messages()
    data = b"".join(map(frame, sent))
    unframer = Unframer()
    got = [message for at in range(0, len(data), step) for message in unframer.feed(data[at : at + step])]
    assert len(got) == len(sent)
    assert all(map(same, sent, got))


def test_a_frame_that_is_cut_short_is_no_message() -> None:
    data = frame(Ask(1))
    for end in range(len(data)):
        assert list(Unframer().feed(data[:end])) == []


def test_tallies_add_up() -> None:
    total = ConnectionCounters()
    for _ in range(2):
        total.add(counted())
    web = total.connections["web"]
    assert (web.active, web.total, web.bytes_up, web.bytes_down) == (2, 4, 20, 4000)
    assert total.connections["api"].by_protocol == {Protocol.TLS: 2}
    assert total.detections == {(Protocol.TLS, Reason.FOUND): 6}
    assert sum(total.detection_times) == 6
    assert total.detection_seconds == pytest.approx(0.0012)
    assert total.refusals == {Refusal.NOT_DIVERTED: 2}


def test_whoever_is_gone_has_no_connections_and_has_had_them() -> None:
    web = counted().at_rest().connections["web"]
    assert (web.active, web.total, web.bytes_up) == (0, 2, 10)


def test_metrics_are_the_sum_of_all_processes() -> None:
    workers = Workers(2, (counted(), counted()))
    metrics = Metrics(lambda: (), lambda: workers)
    metrics.add(counted().at_rest())  # of one that is gone
    metrics.workers_replaced += 1
    text = metrics.render().decode()
    for sample in (
        'podlane_connections_active{class="web",protocol="tls"} 2.0',
        'podlane_connections_total{class="web",protocol="tls"} 6.0',
        'podlane_relayed_bytes_total{class="web",direction="up"} 30.0',
        'podlane_detection_seconds_bucket{le="+Inf"} 9.0',
        "podlane_workers 2.0",
        "podlane_workers_replaced_total 1.0",
    ):
        assert f"\n{sample}\n" in text
    assert metrics.connections["web"].total == 2, "asking must not count anything twice"
