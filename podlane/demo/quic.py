"""The two programs of the demo's QUIC class, by aioquic: ``receive`` takes uploads and counts, ``send`` uploads.

On each stream the receiver reports the bytes received so far, a number per line, and at its end ``{"received": N}``,
which the sender prints. aioquic buffers without a limit, so the sender itself waits: at most :data:`WINDOW` bytes are
in flight.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import click
from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

PROTOCOL: Final = "podlane-demo"
"""What both ends speak, by ALPN (RFC 7301)."""
WINDOW: Final = 256 * 1024
"""A fifth of a second at the lane's ceil: far more than a round trip, and soon over when the upload ends."""
_CHUNK: Final = 32 * 1024


@click.group()
def main() -> None:
    """Send by QUIC, or receive."""


@main.command()
@click.argument("address")
@click.argument("port", type=int)
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("key", type=click.Path(path_type=Path))
def receive(address: str, port: int, certificate: Path, key: Path) -> None:
    """Take uploads on ADDRESS PORT, and count; print ``ready`` first."""
    asyncio.run(_serve(address, port, certificate, key))


async def _serve(address: str, port: int, certificate: Path, key: Path) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[PROTOCOL])
    configuration.load_cert_chain(certificate, key)
    tasks: list[asyncio.Task[None]] = []  # the event loop keeps only weak references

    def began(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(_take(reader, writer)))

    await serve(address, port, configuration=configuration, stream_handler=began)
    print("ready", flush=True)  # noqa: T201 - this is the process's output
    await asyncio.Event().wait()


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a stream to its end."""
    received = 0
    while data := await reader.read(2 * _CHUNK):
        received += len(data)
        writer.write(b"%d\n" % received)
    writer.write(json.dumps({"received": received}).encode() + b"\n")
    writer.write_eof()


@main.command()
@click.argument("address")
@click.argument("port", type=int)
@click.argument("name")
@click.argument("certificate", type=click.Path(path_type=Path))
def send(address: str, port: int, name: str, certificate: Path) -> None:
    """Upload standard input to NAME at ADDRESS PORT, whose CERTIFICATE is known; print its last line."""
    try:
        print(asyncio.run(_upload(address, port, name, certificate)))  # noqa: T201 - this is the process's output
    except ConnectionError as error:
        raise click.ClickException(f"the connection broke: {str(error) or 'see above'}") from None


async def _upload(address: str, port: int, name: str, certificate: Path) -> str:
    configuration = QuicConfiguration(is_client=True, server_name=name, alpn_protocols=[PROTOCOL])
    configuration.load_verify_locations(str(certificate))
    source = asyncio.StreamReader(limit=_CHUNK)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(source), sys.stdin)
    async with connect(address, port, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        sent = received = 0
        while data := await source.read(_CHUNK):
            while sent - received > WINDOW:
                received = int(await _line(reader))
            writer.write(data)
            sent += len(data)
        writer.write_eof()
        while (line := await _line(reader)).isdecimal():
            pass
        return line


async def _line(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError("the server is gone")
    return line.decode().strip()


if __name__ == "__main__":
    main()
