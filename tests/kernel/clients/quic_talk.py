"""A QUIC client that does what it is told: quic_talk.py ADDRESS PORT, then a command per line of standard input.

    connect NAME [VERSION] [OFFERS]    a connection, always from the same port of ours; ends the one before
    send BYTES                         on a stream, and wait until the server says that all have come
    want BYTES                         that the server sends

To each it answers with a line: "ok", or "failed" and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

_VERSIONS = {"1": QuicProtocolVersion.VERSION_1, "2": QuicProtocolVersion.VERSION_2}


class _Failing(QuicConnectionProtocol):
    """Gives up when the system refuses to send, as most clients do; aioquic itself tries until a time-out."""

    def error_received(self, exc: Exception) -> None:
        self._quic.close(reason_phrase=str(exc))
        self.connection_lost(exc)
        waiter = self._connected_waiter
        if waiter is not None and not waiter.done():
            self._connected_waiter = None
            waiter.set_exception(exc)


class Talk:
    """One client with at most one connection."""

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._local_port = 0
        self._stack = contextlib.AsyncExitStack()
        self._connection: QuicConnectionProtocol | None = None

    async def connect(self, name: str, version: str = "1", offers: str = "sink") -> None:
        await self._stack.aclose()
        configuration = QuicConfiguration(
            is_client=True,
            server_name=name,
            alpn_protocols=offers.split(","),
            original_version=_VERSIONS[version],
            supported_versions=[_VERSIONS[version]],
            verify_mode=ssl.CERT_NONE,
            max_data=1 << 26,
            max_stream_data=1 << 26,
            idle_timeout=300.0,
        )
        made = connect(
            self._address,
            self._port,
            configuration=configuration,
            create_protocol=_Failing,
            local_port=self._local_port,
        )
        self._connection = await self._stack.enter_async_context(made)
        self._local_port = self._connection._transport.get_extra_info("sockname")[1]

    async def send(self, size: str) -> None:
        assert await self._exchange(bytes(int(size))) == size.encode()

    async def want(self, size: str) -> None:
        assert len(await self._exchange(f"want {size}".encode())) == int(size)

    async def _exchange(self, data: bytes) -> bytes:
        assert self._connection is not None
        reader, writer = await self._connection.create_stream()
        writer.write(data)
        writer.write_eof()
        return await reader.read()


async def main() -> None:
    talk = Talk(sys.argv[1], int(sys.argv[2]))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *words = line.split()
        try:
            await getattr(talk, command)(*words)
        except Exception as error:  # noqa: BLE001 - whoever gave the command is told
            print("failed", type(error).__name__, error, flush=True)
        else:
            print("ok", flush=True)


asyncio.run(main())
