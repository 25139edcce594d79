"""Uploads its standard input by QUIC: the client of the demo's QUIC lane, by aioquic.

It prints the server's last line, ``{"received": N}``, so that it can be held against what was sent. aioquic keeps
whatever it is given until the path takes it, so the client itself waits: at most :data:`WINDOW` bytes are on their way.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import click
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

from podlane.demo.quic_receiver import PROTOCOL

WINDOW: Final = 256 * 1024
"""A fifth of a second at the lane's ceil: far more than a round trip, and soon over when the upload ends."""
_CHUNK: Final = 32 * 1024


class Upload:
    """A stream, and how much of it has come to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent = 0
        self._received = 0

    async def send(self, data: bytes) -> None:
        """Send as soon as the window has room. Raises ConnectionError when the server is gone."""
        while self._sent - self._received > WINDOW:
            self._received = int(await self._line())
        self._writer.write(data)
        self._sent += len(data)

    async def finish(self) -> str:
        """End the stream; the server's last word. Raises ConnectionError."""
        self._writer.write_eof()
        while (line := await self._line()).isdecimal():
            pass
        return line

    async def _line(self) -> str:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the server is gone")
        return line.decode().strip()


async def run(address: str, port: int, name: str, certificate: Path) -> str:
    """Upload everything; the server's last word. Raises ConnectionError."""
    configuration = QuicConfiguration(is_client=True, server_name=name, alpn_protocols=[PROTOCOL])
    configuration.load_verify_locations(str(certificate))
    source = asyncio.StreamReader(limit=_CHUNK)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(source), sys.stdin)
    async with connect(address, port, configuration=configuration) as connection:
        upload = Upload(*await connection.create_stream())
        while data := await source.read(_CHUNK):
            await upload.send(data)
        return await upload.finish()


@click.command()
@click.argument("address")
@click.argument("port", type=int)
@click.argument("name")
@click.argument("certificate", type=click.Path(path_type=Path))
def main(address: str, port: int, name: str, certificate: Path) -> None:
    """Upload standard input to NAME at ADDRESS PORT, whose CERTIFICATE is known."""
    try:
        print(asyncio.run(run(address, port, name, certificate)))  # noqa: T201 - this is the process's output
    except ConnectionError as error:
        raise click.ClickException(f"the connection broke: {str(error) or 'see above'}") from None
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
