"""Requests at a rate, at random times that do not wait for answers: ``honest address= port= host= path= rate=
seconds=``.

Every second one is on a connection of its own, the others share connections that are kept; if one of those has ended
before a byte of the answer came, the request is sent again on a fresh one, as browsers do (RFC 9110 9.2.2). Latency
counts from when a request was due, so a stall is charged to everybody who had to wait. Prints ``count``, ``errors``,
what the first of them was, and ``p50``, ``p99`` and ``maximum`` in milliseconds; ``late``, how late this program itself
was in 99 of 100 cases, tells how busy others kept the machine.
"""

from __future__ import annotations

import random
from collections import deque

import trio

from benchmarks.abuse.clients.speech import PATIENCE, arguments, get, say
from benchmarks.workers.probe import percentile

_SEED = 7


class _GoneError(Exception):
    """The connection had ended before a byte of the answer."""


class _Client:
    def __init__(self, address: str, port: int, host: str, path: str) -> None:
        self._where = (address, port)
        self._fresh, self._kept = get(host, path, close=True), get(host, path)
        self._idle: deque[trio.SocketStream] = deque()
        self.took: list[float] = []
        self.late: list[float] = []
        self.errors = 0
        self.first_error = ""

    async def ask(self, due: float, fresh: bool) -> None:
        """One request, on a connection of its own or on one that is kept."""
        self.late.append((trio.current_time() - due) * 1e3)
        with trio.move_on_after(PATIENCE) as scope:
            try:
                await self._ask(fresh=fresh)
            except (OSError, _GoneError, EOFError) as error:
                self._failed(f"{'a fresh' if fresh else 'a kept'} connection: {error.__cause__ or error!r}")
                return
        if scope.cancelled_caught:
            self._failed(f"no answer within {PATIENCE:g} s")
            return
        self.took.append((trio.current_time() - due) * 1e3)

    async def _ask(self, *, fresh: bool) -> None:
        if not fresh and self._idle:
            try:
                await self._on(self._idle.pop(), fresh=False)
            except _GoneError:
                pass
            else:
                return
        await self._on(await self._connect(), fresh=fresh)

    async def _connect(self) -> trio.SocketStream:
        sock = trio.socket.socket()
        try:
            await sock.connect(self._where)
        except BaseException:  # cancelled, too: nobody else knows of this socket
            sock.close()
            raise
        return trio.SocketStream(sock)

    async def _on(self, stream: trio.SocketStream, *, fresh: bool) -> None:
        try:
            try:
                await stream.send_all(self._fresh if fresh else self._kept)
            except trio.BrokenResourceError as error:
                raise _GoneError from error
            await _answer(stream)
        except BaseException:  # cancelled, too: in the middle of an exchange it is of no use
            await trio.aclose_forcefully(stream)
            raise
        if fresh:
            await trio.aclose_forcefully(stream)
        else:
            self._idle.append(stream)

    def _failed(self, why: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or why


async def _answer(stream: trio.SocketStream) -> None:
    data = b""
    while True:
        try:
            piece = await stream.receive_some(65536)
        except trio.BrokenResourceError as error:
            raise (EOFError("reset") if data else _GoneError) from error
        if not piece and not data:
            raise _GoneError
        if not piece:
            raise EOFError(f"the connection ended after {len(data)} bytes")
        data += piece
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            continue
        if not head.startswith(b"HTTP/1.1 200 "):
            raise EOFError(f"answered {head[:40]!r}")
        length = next(int(f[15:]) for f in head.lower().split(b"\r\n") if f.startswith(b"content-length:"))
        if len(body) >= length:
            return


async def main(address: str, port: int, host: str, path: str, rate: float, seconds: float) -> None:
    """Ask for ``seconds``, and print what came of it."""
    client = _Client(address, port, host, path)
    chance = random.Random(_SEED)
    async with trio.open_nursery() as nursery:
        begun = due = trio.current_time()
        number = 0
        while (due := due + chance.expovariate(rate)) < begun + seconds:
            await trio.sleep_until(due)
            nursery.start_soon(client.ask, due, bool(number % 2))
            number += 1
    took = sorted(client.took)
    figures = {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "maximum": took[-1]} if took else {}
    if client.late:
        figures["late"] = percentile(sorted(client.late), 0.99)
    say(count=number, errors=client.errors, first_error=client.first_error, **figures)


if __name__ == "__main__":
    _given = arguments()
    trio.run(
        main,
        _given["address"],
        int(_given["port"]),
        _given["host"],
        _given["path"],
        float(_given["rate"]),
        float(_given["seconds"]),
    )
