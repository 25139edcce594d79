"""Everything that clients of the injector can do wrong: ``reviewers address= port= authority= sorts= scale=``.

``authority`` is the file with the certificate to trust, ``sorts`` are names of :data:`SORTS` with commas. Each goes
on until standard input ends. Prints ``sorts`` at the beginning; at the end how often each did what it does.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.abuse.clients.speech import LINGER_ZERO, allow_many_files, arguments, say
from benchmarks.admission import reviews

_TRICKLE_S: Final = 1.0
"""Between two bytes of what is slow."""
_SPREAD_S: Final = 5.0
"""In which those that are held begin."""
_BIG_BODY: Final = 3 * 2**20 - 20_000
_GREETING: Final = bytes.fromhex("16030100c8010000c40303") + bytes(40)
"""The beginning of a ClientHello (RFC 8446 section 4.1.2): 40 of its 196 bytes."""
_GONE: Final = (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

Stream = trio.SSLStream[trio.SocketStream]


def expensive() -> list[bytes]:
    """Reviews that take the injector as long as any: annotations that it does not know, policies of very many matches,
    classes that are none, and bodies of very many values."""
    pod = reviews.untouched()
    egress = {"podlane.io/egress-bandwidth": "10G"}
    match = {"port": list(range(1000, 1200, 2)), "sni": [f"*.x{k}.com" for k in range(20)]}
    classes = [
        {"name": f"c{i}", "rate": "1Mbit", "match": [{**match, "cidr": [f"10.{i}.{k}.0/24" for k in range(10)]}]}
        for i in range(250)
    ]
    return [
        _annotated(pod, {f"podlane.io/unknown-{i}": "" for i in range(10_000)}),
        _annotated(pod, {**egress, "podlane.io/classes": json.dumps(classes)}),
        _annotated(pod, {**egress, "podlane.io/classes": f"[{'1,' * 120_000}]"}),
        reviews.mutation({**pod, "status": {"x": [[]] * (_BIG_BODY // 3)}}).body,
    ]


def _annotated(pod: Any, annotations: dict[str, str]) -> bytes:
    return reviews.mutation({**pod, "metadata": {**pod["metadata"], "annotations": annotations}}).body


def _post(body: bytes, *, timeout: str = "10s", length: int | None = None) -> bytes:
    declared = len(body) if length is None else length
    return (
        f"POST /mutate?timeout={timeout} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {declared}\r\n\r\n"
    ).encode() + body


_REVIEW: Final = _post(reviews.mutation(reviews.pods()["plain"]).body)
_HEALTH: Final = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
_WRONG: Final = (
    _HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    _post(b"{}", timeout="1ns"),
    _post(b"{"),
    _post(b"[" * 20_000),
    b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01nonsense\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    _post(b"{}").replace(b"Length: 2", b"Length: -1"),
)


@dataclass
class Target:
    """The injector, and what was done to it."""

    address: str
    port: int
    tls: ssl.SSLContext
    scale: float
    source: str = "127.0.0.1"
    done: Counter[str] = field(default_factory=Counter)

    async def connect(self, *, receive: int | None = None) -> trio.SocketStream:
        """A connection; ``receive`` is SO_RCVBUF in bytes."""
        made = trio.socket.socket()
        try:
            if receive is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            await made.bind((self.source, 0))
            await made.connect((self.address, self.port))
        except BaseException:
            made.close()
            raise
        return trio.SocketStream(made)

    async def secured(self, *, receive: int | None = None) -> Stream:
        """The same with TLS."""
        transport = await self.connect(receive=receive)
        stream = trio.SSLStream(transport, self.tls, server_hostname=self.address, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(transport)
            raise
        return stream

    async def regularly(self, per_second: float, act: Callable[[Target], Awaitable[None]]) -> None:
        """Do something at a rate, without waiting for its end; what fails is done again in its turn."""
        chance = random.Random(act.__name__)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(chance.expovariate(per_second * self.scale))
                nursery.start_soon(self._attempt, act)

    async def held(self, count: int, act: Callable[[Target], Awaitable[None]], pause: float = 1.0) -> None:
        """Do something that lasts, so many at once, again ``pause`` seconds after its end."""

        async def again(number: int) -> None:
            await trio.sleep(_SPREAD_S * number / count)  # not all in one moment
            while True:
                await self._attempt(act)
                await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            for number in range(max(1, round(count * self.scale))):
                nursery.start_soon(again, number)

    async def _attempt(self, act: Callable[[Target], Awaitable[None]]) -> None:
        name = act.__name__.strip("_")
        try:
            await act(self)
        except _GONE:
            self.done[f"{name}_ended"] += 1
        else:
            self.done[name] += 1


# --- what is done once ------------------------------------------------------------------------------------------------


async def _leaves(target: Target) -> None:
    """A review whose client leaves at once."""
    stream = await target.secured()
    await stream.send_all(_REVIEW)
    await trio.aclose_forcefully(stream)


async def _resets(target: Target) -> None:
    """The same, with RST."""
    stream = await target.secured()
    await stream.send_all(_REVIEW)
    stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    await trio.aclose_forcefully(stream)


async def _pipelines(target: Target) -> None:
    """Very many requests at once, and only the first answer is waited for."""
    stream = await target.secured()
    await stream.send_all(_REVIEW * 20)
    await stream.receive_some(1)
    await trio.aclose_forcefully(stream)


async def _slow_handshake(target: Target) -> None:
    await _trickle(await target.connect(), _GREETING)


async def _slow_head(target: Target) -> None:
    await _trickle(await target.secured(), _HEALTH)


async def _slow_body(target: Target) -> None:
    stream = await target.secured()
    await stream.send_all(_post(b"", length=1000))
    await _trickle(stream, bytes(1000))


async def _trickle(stream: trio.SocketStream | Stream, data: bytes) -> None:
    """A byte at a time until the server has had enough."""
    try:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for byte in data:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(_TRICKLE_S)

            nursery.start_soon(send)
            await _until_closed(stream)
            nursery.cancel_scope.cancel()
    except* _GONE:
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _unread(target: Target) -> None:
    """Reviews whose answers are not read."""
    stream = await target.secured(receive=1)
    try:
        await stream.send_all(_REVIEW * 20)
        await trio.sleep(15)
    finally:
        await trio.aclose_forcefully(stream)


async def _idle(target: Target) -> None:
    """A connection that asks once, and then nothing."""
    stream = await target.secured()
    await stream.send_all(_HEALTH)
    await _until_closed(stream)


async def _crowded(target: Target) -> None:
    """One of very many connections of an address."""
    await _until_closed(await target.connect())


async def _until_closed(stream: trio.SocketStream | Stream) -> None:
    try:
        while await stream.receive_some(65536):
            pass
    finally:
        await trio.aclose_forcefully(stream)


async def _fails(target: Target) -> None:
    """A handshake that is none."""
    stream = await target.connect()
    await stream.send_all(_HEALTH)
    await _until_closed(stream)


async def _handshakes(target: Target) -> None:
    """A handshake, and nothing after it."""
    await trio.aclose_forcefully(await target.secured())


async def _wrong(target: Target) -> None:
    """A request that cannot be answered, on a connection of its own."""
    stream = await target.secured()
    await stream.send_all(random.choice(_WRONG))
    with trio.move_on_after(5):
        await stream.receive_some(65536)
    await trio.aclose_forcefully(stream)


# --- what goes on -----------------------------------------------------------------------------------------------------


async def _flood(target: Target) -> None:
    """Three clients that send the most expensive reviews, one after another, and wait a second for each answer."""
    bodies = [_post(body, timeout="1s") for body in expensive()]

    async def client(number: int) -> None:
        while True:
            try:
                stream = await target.secured()
                try:
                    while True:
                        number += 1
                        with trio.fail_after(1):
                            await stream.send_all(bodies[number % len(bodies)])
                            await _answer(stream)
                        target.done["flood"] += 1
                finally:
                    await trio.aclose_forcefully(stream)
            except _GONE:
                target.done["flood_left"] += 1
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(client, number)


async def _answer(stream: Stream) -> None:
    said = b""
    while b"\r\n\r\n" not in said:
        piece = await stream.receive_some(65536)
        if not piece:
            raise trio.BrokenResourceError
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    left = next(int(f[15:]) for f in head.lower().split(b"\r\n") if f.startswith(b"content-length:")) - len(body)
    while left > 0:
        piece = await stream.receive_some(65536)
        if not piece:
            raise trio.BrokenResourceError
        left -= len(piece)


SORTS: Final[dict[str, Callable[[Target], Awaitable[None]]]] = {
    "leaving": lambda t: _together((t.regularly, 5, _leaves), (t.regularly, 5, _resets)),
    "pipelines": lambda t: t.regularly(1, _pipelines),
    "slow": lambda t: _together((t.held, 100, _slow_handshake), (t.held, 50, _slow_head), (t.held, 50, _slow_body)),
    "unread": lambda t: t.held(10, _unread),
    "idle": lambda t: t.held(100, _idle),
    "crowd": lambda t: t.held(1000, _crowded, 10.0),
    "handshakes": lambda t: _together((t.regularly, 200, _fails), (t.regularly, 20, _handshakes)),
    "wrong": lambda t: t.regularly(20, _wrong),
    "flood": _flood,
}
"""By name."""


async def _together(*acts: tuple[Any, float, Callable[[Target], Awaitable[None]]]) -> None:
    async with trio.open_nursery() as nursery:
        for how, count, act in acts:
            nursery.start_soon(how, count, act)


async def main(target: Target, sorts: list[str]) -> None:
    """Go on until standard input ends."""
    async with trio.open_nursery() as nursery:
        for number, sort in enumerate(sorts):  # each from an address of its own, with its share of connections
            nursery.start_soon(SORTS[sort], replace(target, source=f"127.0.0.{2 + number}"))
        say(sorts=len(sorts))
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    say(**target.done)


if __name__ == "__main__":
    _given = arguments()
    allow_many_files()
    trio.run(
        main,
        Target(
            _given["address"],
            int(_given["port"]),
            ssl.create_default_context(cafile=str(Path(_given["authority"]))),
            float(_given["scale"]),
        ),
        _given["sorts"].split(","),
    )
