"""The other end of every transfer: a process that takes uploads, gives downloads, and says how many bytes there were.

Behind nginx it speaks HTTP/1.1 on a unix socket. A request with a body is answered with ``{"received": N}`` once the
whole body is there, so that a client learns whether every byte arrived. ``GET /NAME`` is answered with bytes until a
line ``NAME`` comes on standard input; then the answer ends properly. On a TCP port it takes anything.

On standard output it prints ``ready`` when both listen, and then a JSON line ``{"name": NAME, "bytes": N}`` for every
download that has ended, and, as :data:`RAW`, for every sender on the TCP port.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import click
import h11
import trio

RAW: Final = "(raw)"
_CHUNK: Final = 256 * 1024
"""Bytes read at once: some milliseconds of traffic at the demo's rates."""
_PIECE: Final = bytes(32 * 1024)
"""Bytes given at once: little, so that a download that is to end has little on its way."""


def _say(name: str, count: int) -> None:
    print(json.dumps({"name": name, "bytes": count}), flush=True)  # noqa: T201 - this is the process's output


@dataclass
class _Endings:
    """Which downloads are to end."""

    _of: defaultdict[str, trio.Event] = field(default_factory=lambda: defaultdict(trio.Event))

    def of(self, name: str) -> trio.Event:
        return self._of[name]

    async def listen(self) -> None:
        """Read names, a line each, until nobody can write any more."""
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for data in commands:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._of[line.decode()].set()


async def _serve_request(stream: trio.SocketStream, endings: _Endings) -> None:
    connection = h11.Connection(h11.SERVER)
    received = 0
    asked: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(go_on) or b"")
            connection.receive_data(await stream.receive_some(_CHUNK))
        elif isinstance(event, h11.Request):
            asked = event
        elif isinstance(event, h11.Data):
            received += len(event.data)
        elif isinstance(event, h11.EndOfMessage) and asked is not None:
            if asked.method == b"GET":
                await _give(stream, connection, asked.target.decode().lstrip("/"), endings)
            else:
                await stream.send_all(_answer(connection, received))
            return
        else:
            return


async def _give(stream: trio.SocketStream, connection: h11.Connection, name: str, endings: _Endings) -> None:
    """Send until the download is to end. h11 frames what follows a head without Content-Length in chunks."""
    headers = [("content-type", "application/octet-stream"), ("connection", "close")]
    await stream.send_all(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
    given = 0
    ending = endings.of(name)
    while not ending.is_set():
        await stream.send_all(connection.send(h11.Data(data=_PIECE)) or b"")
        given += len(_PIECE)
    await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
    _say(name, given)


def _answer(connection: h11.Connection, received: int) -> bytes:
    body = json.dumps({"received": received}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    parts = (
        connection.send(h11.Response(status_code=200, headers=headers)),
        connection.send(h11.Data(data=body)),
        connection.send(h11.EndOfMessage()),
    )
    return b"".join(part or b"" for part in parts)


async def _serve_http(endings: _Endings, stream: trio.SocketStream) -> None:
    try:
        await _serve_request(stream, endings)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass  # a transfer that was cut short: its client reports it
    finally:
        await trio.aclose_forcefully(stream)


async def _serve_raw(stream: trio.SocketStream) -> None:
    received = 0
    try:
        async for data in stream:
            received += len(data)
    except trio.BrokenResourceError:
        pass  # reset by the client: what came before counts all the same
    finally:
        _say(RAW, received)
        await trio.aclose_forcefully(stream)


async def run(unix_path: str, address: str, port: int) -> None:
    """Serve until cancelled: HTTP on the unix socket, anything on the TCP port."""
    endings = _Endings()
    unix = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await unix.bind(unix_path)
    unix.listen(64)
    raw = await trio.open_tcp_listeners(port, host=address)
    async with trio.open_nursery() as nursery:
        serve_http = partial(_serve_http, endings)
        nursery.start_soon(partial(trio.serve_listeners, serve_http, [trio.SocketListener(unix)]))
        nursery.start_soon(partial(trio.serve_listeners, _serve_raw, raw))
        nursery.start_soon(endings.listen)
        print("ready", flush=True)  # noqa: T201 - this is the process's output


@click.command()
@click.argument("unix_path")
@click.argument("address")
@click.argument("port", type=int)
def main(unix_path: str, address: str, port: int) -> None:
    """Take uploads and give downloads on UNIX_PATH (HTTP), take anything on ADDRESS PORT, and count."""
    try:
        trio.run(run, unix_path, address, port)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
