"""The end of every upload: a process that takes bytes, throws them away and says at the end how many there were.

Behind nginx it speaks HTTP/1.1 on a unix socket and answers each request with ``{"received": N}`` once the whole body
is there, so that a client learns whether every byte arrived. On a TCP port it takes anything, and prints the count as a
JSON line when the sender is done. It prints ``ready`` when both listen.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Final

import click
import h11
import trio

_CHUNK: Final = 256 * 1024
"""Bytes read at once: some milliseconds of traffic at the demo's rates."""


async def _receive_http(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    received = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(go_on) or b"")
            connection.receive_data(await stream.receive_some(_CHUNK))
        elif isinstance(event, h11.Data):
            received += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            await stream.send_all(_answer(connection, received))
            return
        elif isinstance(event, h11.ConnectionClosed):
            return


def _answer(connection: h11.Connection, received: int) -> bytes:
    body = json.dumps({"received": received}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    parts = (
        connection.send(h11.Response(status_code=200, headers=headers)),
        connection.send(h11.Data(data=body)),
        connection.send(h11.EndOfMessage()),
    )
    return b"".join(part or b"" for part in parts)


async def _serve_http(stream: trio.SocketStream) -> None:
    try:
        await _receive_http(stream)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass  # an upload that was cut short: its client reports it
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
        print(json.dumps({"received": received}), flush=True)  # noqa: T201 - this is the process's output
        await trio.aclose_forcefully(stream)


async def run(unix_path: str, address: str, port: int) -> None:
    """Serve until cancelled: HTTP on the unix socket, anything on the TCP port."""
    unix = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await unix.bind(unix_path)
    unix.listen(64)
    raw = await trio.open_tcp_listeners(port, host=address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, _serve_http, [trio.SocketListener(unix)]))
        nursery.start_soon(partial(trio.serve_listeners, _serve_raw, raw))
        print("ready", flush=True)  # noqa: T201 - this is the process's output


@click.command()
@click.argument("unix_path")
@click.argument("address")
@click.argument("port", type=int)
def main(unix_path: str, address: str, port: int) -> None:
    """Take uploads on UNIX_PATH (HTTP) and on ADDRESS PORT (anything), and count them."""
    try:
        trio.run(run, unix_path, address, port)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
