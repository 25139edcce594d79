"""The socket at which ``podlane-cni`` asks, for root of this node alone."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from daemon.log import Logger
from node_agent.cni.call import BAD_ENVIRONMENT, OK, CniCall, CniError
from traffic_policy.errors import ConfigError

_MOST_CALLS: Final = 256
"""At once; a kubelet starts as many Pods, but not more."""
_MOST_BYTES: Final = 1 << 16
_ASK_S: Final = 2.0
"""Seconds for a call to be read, and for an answer to be taken."""
_LONGEST_PATH: Final = 107
"""Bytes (unix(7))."""
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid

log = Logger()
log_some = Logger(spacing=60.0)

Answer = Callable[[CniCall], Awaitable[None]]
"""Raises :class:`CniError` if the Pod is to wait."""


def listen(path: Path) -> trio.SocketListener:
    """A listener at this path, in place of that of an earlier agent. Raises :class:`ConfigError`."""
    if len(os.fsencode(path)) > _LONGEST_PATH or set(str(path)) & set('"\\'):
        raise ConfigError(f"{path} cannot be a socket: it is too long, or has quotes. Name another folder by --state.")
    fresh = path.with_suffix(".new")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        listening.bind(str(fresh))
        fresh.chmod(0o600)
        listening.listen(_MOST_CALLS)
        fresh.rename(path)  # in one step: there is no moment without a socket
    except OSError as error:
        listening.close()
        raise ConfigError(f"{path} cannot be a socket: {error.strerror}. Name another folder by --state.") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def serve_cni(listener: trio.SocketListener, answer: Answer) -> None:
    """Answer calls until cancelled."""
    await trio.serve_listeners(partial(_serve, answer, trio.CapacityLimiter(_MOST_CALLS)), [listener])


async def _serve(answer: Answer, calls: trio.CapacityLimiter, stream: trio.SocketStream) -> None:
    async with stream:
        if (uid := _user_of(stream)) != 0:
            log_some.warning("somebody else than root asked as a CNI plugin, and is not answered", uid=uid)
            return
        try:
            calls.acquire_nowait()
        except trio.WouldBlock:
            log_some.warning("too many CNI plugins ask at once: some are not answered", most=_MOST_CALLS)
            return
        try:
            said = await _answered(answer, stream)
            with trio.move_on_after(_ASK_S):
                await stream.send_all(said)
        except trio.BrokenResourceError:
            pass  # the plugin has ended
        finally:
            calls.release()


async def _answered(answer: Answer, stream: trio.SocketStream) -> bytes:
    """Raises :class:`trio.BrokenResourceError`."""
    version = ""
    try:
        call = CniCall.parse(await _read(stream))
        version = call.version
        await answer(call)
    except CniError as error:
        return error.answer(version)
    return OK


async def _read(stream: trio.SocketStream) -> bytes:
    """All of it. Raises :class:`CniError`, :class:`trio.BrokenResourceError`."""
    data = b""
    with trio.move_on_after(_ASK_S):
        async for part in stream:
            data += part
            if len(data) > _MOST_BYTES:
                break
        else:
            return data
    raise CniError(BAD_ENVIRONMENT, "the plugin's variables are too many, or come too slowly")


def _user_of(stream: trio.SocketStream) -> int:
    """The user of the process that connected (SO_PEERCRED of unix(7))."""
    said = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(said)[1]
    return uid
