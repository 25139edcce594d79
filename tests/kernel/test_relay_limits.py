"""Limits: connections, descriptors, memory, idleness; and that nothing leaks."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from proxy_harness import Bench, LoopbackEdge, RunningProxy, bench, read_exactly
from sidecars import start_sidecar
from waiting import until

from benchmarks.processes import process_tree
from podlane.netns.topology import PodNodeServer
from sidecar.proxy.connection import RelayedConnection
from sidecar.proxy.server import ConnectionOutcome, ServerSettings, fitting_connections, make_room_for_descriptors
from sidecar.transport.kernel_sockets import OriginalDestination


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_full_proxy_leaves_connections_to_the_backlog_and_takes_them_when_there_is_room() -> None:
    with bench(max_connections=2) as b:
        first, second = b.pair(), b.pair()
        waiting = b.proxy.client()  # completed by the kernel
        waiting.sendall(b"\x00")
        b.listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            b.listener.accept()
        assert b.proxy.server.active == 2
        b.listener.settimeout(20)
        for sock in first:
            sock.close()
        assert read_exactly(b.accept(), 1) == b"\x00"
        assert second[0].fileno() > 0


@pytest.mark.parametrize(
    ("wanted", "limit", "fits"),
    [(10_000, 65_536, 10_000), (10_000, 20_000, 9_808), (10_000, 1_024, 320), (10, 64, 1)],
    ids=["roomy", "tight", "default-limit", "hopeless"],
)
def test_connection_limit_fits_under_the_limit_of_open_files(wanted: int, limit: int, fits: int) -> None:
    assert fitting_connections(wanted, limit) == fits


@pytest.mark.root
@pytest.mark.parametrize(("options", "connections"), [([], 3000), (["--workers", "2"], 1500)], ids=["alone", "workers"])
def test_there_is_room_for_the_descriptors_of_all_connections(
    topology: PodNodeServer, tmp_path: Path, options: list[str], connections: int
) -> None:
    """In each process that relays, so that the kernel need not make any later, for which the event loop would wait."""
    policy = "total: 1Gbit\nclasses: [{name: named, rate: 1Mbit, match: {host: named.example}}]\n"
    sidecar = start_sidecar(topology.pod, policy, tmp_path, "--max-connections", "3000", *options)
    sizes = [descriptor_table(pid) for pid in process_tree(sidecar.proxy)]
    assert sum(size >= 2 * connections for size in sizes) == 3000 // connections
    assert sidecar.stop() == 0


def descriptor_table(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("FDSize:")]
    return int(line.split()[1])


def test_room_beyond_the_limit_is_done_without() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    make_room_for_descriptors(hard + 10)
    assert descriptors() == before


def test_idle_proxy_does_not_wake_up() -> None:
    with bench() as b:
        pairs = [b.pair() for _ in range(20)]
        until("all are there", lambda: b.proxy.server.active == 20)
        before = b.proxy.server.wakeups
        used = resource.getrusage(resource.RUSAGE_SELF)
        threading.Event().wait(0.5)
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert b.proxy.server.wakeups == before
        assert after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime < 0.05
        assert len(pairs) == 20


def test_no_descriptors_for_accepting_is_waited_for() -> None:
    """EMFILE: the connection stays in the backlog and is accepted later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with bench() as b:
        client = socket.socket()
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 8, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                taken.extend(os.open("/dev/null", os.O_RDONLY) for _ in itertools.count())
            client.connect(b.proxy.addresses[0])
            client.sendall(b"\x00")
            b.recorder.wait(lambda: "no-descriptors" in b.recorder.refusals)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert read_exactly(b.accept(), 1) == b"\x00"
        assert len(b.recorder.refusals) < 10  # one per retry interval, not one per event
        client.close()


class _BrokenEdge(LoopbackEdge):
    """Fails as a programming mistake would, for the first connection only."""

    def dial(
        self, original: OriginalDestination, mark: int, client: socket.SocketType, *, speaks: bool
    ) -> socket.SocketType:
        if not self.marks:
            self.marks.append(mark)
            raise ZeroDivisionError("a bug")
        return super().dial(original, mark, client, speaks=speaks)


def test_a_bug_in_one_connection_leaves_the_others_alone() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RunningProxy(_BrokenEdge(listener.getsockname()), ServerSettings(port=0, ipv6=False)) as proxy,
    ):
        unlucky = proxy.client()
        unlucky.sendall(b"\x00")
        with pytest.raises(ConnectionResetError):
            unlucky.recv(1)
        assert proxy.recorder.closed_one().outcome is ConnectionOutcome.FAULT
        Bench(proxy, listener).pair()


class _PortlessEdge(LoopbackEdge):
    """Cannot dial for want of ephemeral ports."""

    def dial(self, *_: object, **__: object) -> socket.SocketType:
        raise OSError(errno.EADDRNOTAVAIL, "no port")


def test_no_ephemeral_port_is_a_reset_and_counted() -> None:
    with RunningProxy(_PortlessEdge(("127.0.0.1", 9)), ServerSettings(port=0, ipv6=False)) as proxy:
        client = proxy.client()
        client.sendall(b"\x00")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert proxy.recorder.closed_one().outcome is ConnectionOutcome.LOCAL_ERROR


def _serve_short(b: Bench, count: int) -> None:
    for _ in range(count):
        with b.accept() as sock:
            sock.sendall(sock.recv(100))


def test_a_thousand_short_connections_leave_nothing_behind() -> None:
    count = 1_000  # 10,000 by TPROXY in tests/kernel
    with bench() as b:
        server = threading.Thread(target=_serve_short, args=(b, count), daemon=True)
        server.start()

        def converse(_: int) -> None:
            with b.proxy.client() as client:
                client.sendall(b"\x00ping")
                assert read_exactly(client, 5) == b"\x00ping"

        before = descriptors()
        gc.collect()
        gc.disable()
        try:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(converse, range(count)))
            b.recorder.closed_one(count)
            alive = sum(isinstance(o, RelayedConnection) for o in gc.get_objects())
        finally:
            gc.enable()
        assert alive <= 2, "closed connections wait for the garbage collector"
        assert b.proxy.server.active == 0
        until("all descriptors are closed", lambda: descriptors() <= before)
        assert {s.outcome for s in b.recorder.summaries} == {ConnectionOutcome.COMPLETE}


def test_idle_connections_are_small() -> None:
    """A loose guard: an idle connection keeps no buffer, no task, no pipe."""

    def rss() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    with bench() as b:
        warm = [b.pair() for _ in range(50)]
        before = rss()
        pairs = [b.pair() for _ in range(500)]
        used = rss() - before
        # 500 connections are 1,000 socket objects of the test and 1,000 of the proxy.
        assert used < 500 * 6_000
        assert b.proxy.server._context.loop_context.pipes.alive == 0
        assert (len(warm), len(pairs)) == (50, 500)
