"""The supervisor's control socket, an abstract socket of the network namespace.

A request is a word, an answer a line. ``ping`` is answered at once, which a liveness probe uses. Only requests of the
supervisor's own user and root are accepted: other containers of a Pod share the namespace.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import Final

from sidecar.errors import SupervisorError

NAME: Final = "\0podlane/supervisor"
"""Abstract (unix(7)), like that of :mod:`datapath.instance_lock`."""
PING: Final = "ping"
OK: Final = "ok"
_WORD: Final = 64
_WAITING: Final = 8
"""Simultaneous clients; probes run one after another."""
_CREDENTIALS: Final = struct.Struct("=iII")


class Control:
    """The server side, for the supervisor's poll(2)."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._listener: socket.socket | None = None
        self._clients: dict[int, socket.socket] = {}

    def open(self) -> None:
        """Listen unless the name is taken; then another supervisor's proxy holds the lock, which our proxy will
        report."""
        if self._listener is not None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(NAME)
        except OSError:
            listener.close()
            return
        listener.listen(_WAITING)
        self._listener = listener
        self._poll.register(listener, select.POLLIN)

    def serve(self, ready: set[int]) -> None:
        """Handle those of these ready descriptors that belong to this socket."""
        for descriptor in ready & self._clients.keys():
            self._hear(self._clients[descriptor])
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has already disconnected
        _, user, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user not in (0, os.geteuid()) or len(self._clients) >= _WAITING:
            client.close()
            return
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self._poll.register(client, select.POLLIN)

    def _hear(self, client: socket.socket) -> None:
        try:
            word = client.recv(_WORD).decode(errors="replace")
            if word:
                client.send((OK if word == PING else f"There is no {word}.").encode())
                return
        except OSError:
            pass
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if self._clients.pop(client.fileno(), None) is not None:
            self._poll.unregister(client)
            client.close()


def request(word: str, patience: float) -> str:
    """Send a request to this namespace's supervisor and wait ``patience`` seconds for the answer. Raises
    :class:`SupervisorError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(patience)
        try:
            client.connect(NAME)
            client.send(word.encode())
            line = client.recv(1 << 16).decode(errors="replace")
        except TimeoutError:
            raise SupervisorError(f"The sidecar's supervisor has not answered within {patience:g} s.") from None
        except OSError as error:
            raise SupervisorError(
                f"There is no supervisor of a sidecar in this network namespace ({error.strerror}). Is one running?"
            ) from None
    if not line:
        raise SupervisorError("The sidecar's supervisor does not hear this user. Ask as the user it runs as, or root.")
    return line
