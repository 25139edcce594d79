"""Calls to a control plane over TCP and TLS 1.3, by trio."""

from __future__ import annotations

import _ssl
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from daemon.version import installed_version
from fleet_api.limits import KEEPALIVE, SERVER_NAME, SILENCE
from node_agent.fleet.errors import CallEndedError, UnreachableError
from node_agent.fleet.fleet_settings import Address
from node_agent.fleet.grpc_call import GrpcCall

ALPN: Final = ["h2"]
_CHUNK: Final = 16 << 10
_CONNECT_S: Final = 10.0
"""Seconds for a connection and its handshake."""
_UNARY_S: Final = 30.0
_UNAVAILABLE: Final = 14
USER_AGENT: Final = f"podlane-agent/{installed_version() or 'source'}"


class LiveCall:
    """A call on a connection of its own. One task may receive while others send."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], call: GrpcCall) -> None:
        self._stream = stream
        self._call = call
        self._sending = trio.Lock()
        self._heard = trio.current_time()
        self._arrived: Iterator[bytes] = iter(())

    @property
    def crowded(self) -> bool:
        """Whether the control plane has not taken yet what was sent: what can be left out should be."""
        return self._call.unsent > 0

    async def send(self, message: bytes, *, last: bool = False) -> None:
        """Send a message, or keep it while the other side's window has no room. Raises :class:`CallEndedError`."""
        self._call.send(message, last=last)
        await self._flush()

    async def receive(self) -> bytes:
        """The next message. Raises :class:`CallEndedError` at the end."""
        while True:
            for message in self._arrived:
                return message
            await self._flush()
            if self._call.going_away:
                raise CallEndedError(_UNAVAILABLE, self._call.going_away)
            try:
                data = await self._stream.receive_some(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise _broken(error) from None
            self._heard = trio.current_time()
            self._arrived = self._call.receive(bytes(data))

    async def keep_alive(self) -> None:
        """Ask for a sign of life after a while without one, and raise :class:`CallEndedError` if none comes."""
        asked = self._heard
        while True:
            quiet = trio.current_time() - self._heard
            if quiet >= SILENCE:
                raise CallEndedError(_UNAVAILABLE, f"Nothing was heard of the control plane for {SILENCE:g} s.")
            if quiet >= KEEPALIVE and trio.current_time() - asked >= KEEPALIVE:
                asked = trio.current_time()
                self._call.ping()
                await self._flush()
            await trio.sleep(max(1.0, min(KEEPALIVE, SILENCE - quiet) / 2))

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._call.to_send():
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise _broken(error) from None


@asynccontextmanager
async def secured(address: Address, tls: ssl.SSLContext) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A connection after the handshake, which is closed after the block. Raises :class:`UnreachableError`."""
    with trio.move_on_after(_CONNECT_S) as patience:
        try:
            plain = await trio.open_tcp_stream(address.host, address.port)
        except OSError as error:
            raise UnreachableError(f"{address}: {_reason(error)}.") from None
    if patience.cancelled_caught:
        raise UnreachableError(f"{address} does not answer.")
    stream = trio.SSLStream(plain, tls, server_hostname=SERVER_NAME, https_compatible=True)
    try:
        with trio.move_on_after(_CONNECT_S) as patience:
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as error:
                raise UnreachableError(f"{address}: {_why(error)}") from None
        if patience.cancelled_caught:
            raise UnreachableError(f"{address} does not finish the TLS handshake.")
        yield stream
    finally:
        await trio.aclose_forcefully(plain)
        vars(stream).clear()  # it refers to itself, and its buffers would wait for the garbage collector


@asynccontextmanager
async def calling(address: Address, tls: ssl.SSLContext, method: str) -> AsyncIterator[LiveCall]:
    """A call, whose connection ends with the block. Raises :class:`UnreachableError`, :class:`CallEndedError`."""
    async with secured(address, tls) as stream:
        if stream.selected_alpn_protocol() != ALPN[0]:
            raise UnreachableError(f"{address} does not speak HTTP/2. Is this the agents' port of a control plane?")
        yield LiveCall(stream, GrpcCall(str(address), method, USER_AGENT))


async def unary(address: Address, tls: ssl.SSLContext, method: str, request: bytes) -> bytes:
    """Call with one message, and give the answer. Raises :class:`UnreachableError`, :class:`CallEndedError`."""
    answer = None
    with trio.move_on_after(_UNARY_S):
        async with calling(address, tls, method) as call:
            await call.send(request, last=True)
            try:
                while True:
                    answer = await call.receive()
            except CallEndedError as end:
                if end.status == 0 and answer is not None:
                    return answer
                raise
    raise UnreachableError(f"{address} does not answer.")


async def shown_chain(address: Address) -> list[bytes]:
    """The certificates (DER) that a server shows, unchecked. Raises :class:`UnreachableError`."""
    try:
        return await trio.to_thread.run_sync(_shown_chain, address)
    except (OSError, ssl.SSLError) as error:
        raise UnreachableError(f"{address}: {_reason(error)}.") from None


def _shown_chain(address: Address) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(ALPN)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to see the root, which is compared with the token's digest
    with (
        socket.create_connection((address.host, address.port), timeout=_CONNECT_S) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as stream,
    ):
        if hasattr(stream, "get_unverified_chain"):  # Python 3.13
            return list(stream.get_unverified_chain())
        # The same by the module's own object: there has been no public way before.
        found: Any = stream._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        return [each.public_bytes(_ssl.ENCODING_DER) for each in found or ()]


_ANOTHER: Final = (
    "If this is another control plane, or one that was made anew, than the agent joined, it has to join again: end it, "
    "empty its folder of --data, and start it."
)


def _broken(error: Exception) -> CallEndedError:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return CallEndedError(_UNAVAILABLE, f"TLS failed: {_of_tls(cause)}")
    return CallEndedError(_UNAVAILABLE, "The connection broke.")


def _why(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    return _of_tls(cause) if isinstance(cause, ssl.SSLError) else "the connection broke during the TLS handshake."


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {error.verify_message.rstrip('.')}. {_ANOTHER}"
    return f"{(error.reason or str(error)).lower().replace('_', ' ')}."


def _reason(error: OSError) -> str:
    """trio tells of each address that it tried."""
    found: BaseException | None = error.__cause__ or error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    number = getattr(found, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(found)
