"""A QUIC server that takes all that clients send: quic_sink.py ADDRESS CERTIFICATE KEY PORT RETRY_PORT.

At the end of each stream it answers with how many bytes that had; a stream that begins with "want N" it answers with N
bytes. On RETRY_PORT it sends every client a Retry first. It says "listening" once it does.
"""

from __future__ import annotations

import asyncio
import sys

from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

_tasks: set[asyncio.Task[None]] = set()


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    first = data = await reader.read(1 << 16)
    size = 0
    while data:
        size += len(data)
        data = await reader.read(1 << 16)
    writer.write(bytes(int(first.split()[1])) if first.startswith(b"want ") else str(size).encode())
    writer.write_eof()


def _began(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.ensure_future(_take(reader, writer))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def main(address: str, certificate: str, key: str, port: int, retry_port: int) -> None:
    """Serve until killed."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=["sink"],
        supported_versions=[QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2],
        max_data=1 << 26,
        max_stream_data=1 << 26,
        idle_timeout=300.0,
    )
    configuration.load_cert_chain(certificate, key)
    for number in (port, retry_port):
        await serve(address, number, configuration=configuration, stream_handler=_began, retry=number == retry_port)
    print("listening", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])))
