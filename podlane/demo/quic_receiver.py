"""Takes uploads by QUIC and counts them: the server of the demo's QUIC lane, by aioquic.

On each stream it says how many bytes have come so far, a number a line, and at its end ``{"received": N}``. By the
numbers a client knows how much of what it sent is still on its way (:mod:`podlane.demo.quic_sender`).

On standard output it prints ``ready`` when it listens.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import click
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

PROTOCOL: Final = "podlane-demo"
"""What both ends speak, by ALPN (RFC 7301)."""
_CHUNK: Final = 64 * 1024


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a stream to its end."""
    received = 0
    while data := await reader.read(_CHUNK):
        received += len(data)
        writer.write(b"%d\n" % received)
    writer.write(json.dumps({"received": received}).encode() + b"\n")
    writer.write_eof()


async def run(address: str, port: int, certificate: Path, key: Path) -> None:
    """Serve until cancelled."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[PROTOCOL])
    configuration.load_cert_chain(certificate, key)
    tasks: set[asyncio.Task[None]] = set()

    def began(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(take(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await serve(address, port, configuration=configuration, stream_handler=began)
    print("ready", flush=True)  # noqa: T201 - this is the process's output
    await asyncio.Event().wait()


@click.command()
@click.argument("address")
@click.argument("port", type=int)
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("key", type=click.Path(path_type=Path))
def main(address: str, port: int, certificate: Path, key: Path) -> None:
    """Take uploads by QUIC on ADDRESS PORT, and count."""
    try:
        asyncio.run(run(address, port, certificate, key))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
