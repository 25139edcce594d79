"""What goes in comes out: bodies of all sizes, both ways at once, in random pieces, with every order of FINs."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from proxy_harness import PATIENCE, bench, read_to_end, with_patience

from sidecar.proxy.server import ConnectionOutcome
from sidecar.transport.loop_context import BUFFER_SIZE
from sidecar.transport.pipes import PIPE_SIZE, PipePool
from traffic_policy.units import ByteCount

_BLOCK = random.Random(7).randbytes(1 << 20)


def send_body(sock: socket.socket, size: int, seed: int) -> str:
    """Send a body that ``seed`` determines in pieces that it determines too, then FIN; returns its SHA-256."""
    chance = random.Random(seed)
    digest = hashlib.sha256()
    left = size
    while left:
        start = chance.randrange(len(_BLOCK) // 2)
        length = min(left, chance.choice((1, 100, 1448, 16384, BUFFER_SIZE, len(_BLOCK) // 2)))
        piece = _BLOCK[start : start + length]
        sock.sendall(piece)
        digest.update(piece)
        left -= length
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def receive_body(sock: socket.socket, seed: int) -> str:
    """Read to the end, in pieces of random sizes; returns the SHA-256."""
    chance = random.Random(seed)
    digest = hashlib.sha256()
    while piece := sock.recv(chance.choice((1000, 65536, 1 << 20))):
        digest.update(piece)
    return digest.hexdigest()


def in_parallel(*tasks: Callable[[], str]) -> list[str]:
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result(PATIENCE * 3) for future in [pool.submit(task) for task in tasks]]


def exchange(client: socket.socket, server: socket.socket, up: int, down: int, seed: int) -> None:
    """Bodies both ways at the same time; each side sends FIN when it is done, whatever the other does."""
    sent_up, got_up, sent_down, got_down = in_parallel(
        lambda: send_body(client, up, seed),
        lambda: receive_body(server, seed),
        lambda: send_body(server, down, seed + 1),
        lambda: receive_body(client, seed + 1),
    )
    assert (sent_up, sent_down) == (got_up, got_down)


SIZES = [0, 1, BUFFER_SIZE - 1, BUFFER_SIZE, BUFFER_SIZE + 1, 3 * BUFFER_SIZE, PIPE_SIZE + 1, 30_000_000]


@pytest.mark.parametrize("size", SIZES, ids=[str(ByteCount(n)) for n in SIZES])
def test_same_size_both_ways(size: int) -> None:
    with bench() as b:
        client, server = b.pair()
        exchange(client, server, size, size, seed=size)
        summary = b.recorder.closed_one()
        assert (summary.outcome, summary.bytes_up, summary.bytes_down) == (ConnectionOutcome.COMPLETE, size + 1, size)


@pytest.mark.parametrize(
    ("up", "down"),
    [(0, 5_000_000), (5_000_000, 0), (100, 100_000_000), (100_000_000, 100)],
    ids=["only-down", "only-up", "100MB-down", "100MB-up"],
)
def test_one_side_finishes_long_before_the_other(up: int, down: int) -> None:
    with bench() as b:
        client, server = b.pair()
        exchange(client, server, up, down, seed=up + 3 * down)


def test_everything_is_copied_when_there_are_no_pipes() -> None:
    with bench() as b:
        b.proxy.call(setattr, b.proxy.server._context.loop_context, "pipes", PipePool(max_pipes=0))
        client, server = b.pair()
        exchange(client, server, 20_000_000, 20_000_000, seed=5)


def test_pipes_are_shared_and_given_back_empty() -> None:
    with bench() as b:
        pairs = [b.pair() for _ in range(8)]
        in_parallel(
            *[lambda c=c, s=s, i=i: str(exchange(c, s, 3_000_000, 3_000_000, i)) for i, (c, s) in enumerate(pairs)]
        )
        b.recorder.closed_one(8)
        pipes = b.proxy.server._context.loop_context.pipes
        assert pipes.alive == pipes.idle > 0


def test_many_at_once() -> None:
    """100 connections of mixed sizes, the server echoing each."""
    chance = random.Random(300)
    sizes = [chance.choice((0, 1, 500, 20_000, 200_000, 1_000_000)) for _ in range(100)]
    with bench() as b:

        def echo() -> None:
            for _ in sizes:
                sock = b.accept()
                threading.Thread(target=echo_one, args=(sock,), daemon=True).start()

        def echo_one(sock: socket.socket) -> None:
            with sock:
                while piece := sock.recv(1 << 16):
                    sock.sendall(piece)

        def converse(index: int) -> None:
            with with_patience(b.proxy.client()) as client, ThreadPoolExecutor(1) as pool:
                client.sendall(b"\x00")
                assert client.recv(1) == b"\x00"
                got = pool.submit(receive_body, client, index)
                assert send_body(client, sizes[index], index) == got.result(PATIENCE)

        threading.Thread(target=echo, daemon=True).start()
        with ThreadPoolExecutor(60) as pool:
            list(pool.map(converse, range(len(sizes))))
        b.recorder.closed_one(len(sizes))
        assert {s.outcome for s in b.recorder.summaries} == {ConnectionOutcome.COMPLETE}
        assert sum(s.bytes_up for s in b.recorder.summaries) == sum(sizes) + len(sizes)


def test_a_reader_that_stops_stops_the_sender() -> None:
    """Back-pressure: what the sender gets rid of while nobody reads is what the sockets hold, and one pipe."""
    with bench() as b:
        client, server = b.pair()
        for sock in (client, server):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        server.settimeout(0.3)
        pushed = 0
        try:
            while True:
                pushed += server.send(_BLOCK)
        except TimeoutError:
            pass
        # Two receive buffers (autotuned, so up to tcp_rmem's maximum), two send buffers, and what the proxy holds itself.
        assert pushed < 32 << 20
        [view] = b.proxy.call(b.proxy.server.snapshot)
        unread_by_client = len(client.recv(64 << 20, socket.MSG_PEEK))
        assert unread_by_client <= view.bytes_down <= pushed
        server.shutdown(socket.SHUT_WR)
        assert len(read_to_end(client)) == pushed
