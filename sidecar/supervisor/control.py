"""The supervisor's control socket, by which probes ask it. A request is a word, an answer a line.

It is a Unix socket in a directory that only its user can enter: an abstract one could be reached, and filled, by every
process of the network namespace, hence by each container of a Pod. Several network namespaces share a file system, so
the socket's name is the number of the namespace (``ip netns``, namespaces(7)): ``/run/podlane/4026532008.sock``. In an
injected container /run is a volume of its own.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from sidecar.errors import SupervisorError

PING: Final = "ping"
"""Answered :data:`OK`: the supervisor does its work, whether the proxy is ready or not."""
OK: Final = "ok"
READY: Final = "ready"
"""Answered with the same word if everything is in force, else with the reason."""
DIRECTORIES: tuple[str, ...] = ("/run/podlane", "$XDG_RUNTIME_DIR/podlane")
"""The first one that can be made is used; the second is for users who may not write to /run."""
_TIMEVAL: Final = struct.Struct("@ll")
_WORD: Final = 64
_CLIENTS: Final = 8
"""Simultaneous clients; probes run one after another. A further one takes the place of the first."""
_PATIENCE_S: Final = 1.0


class Control:
    """The server side, for the supervisor's poll(2)."""

    def __init__(self, poll: select.poll, answer: Callable[[str], str]) -> None:
        """``answer`` returns the answer to a word."""
        self._poll = poll
        self._answer = answer
        self._listener: socket.socket | None = None
        self._clients: dict[int, socket.socket] = {}
        self._path = ""

    def open(self) -> str | None:
        """Listen, once. Return why that is not possible; None if it is, or if another supervisor listens here, as our
        proxy will then report."""
        if self._listener is not None:
            return None
        problems = []
        for path in _paths():
            try:
                _make_directory(os.path.dirname(path))
                self._listener = _listen(path)
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
                continue
            if self._listener is not None:
                self._path = path
                self._poll.register(self._listener, select.POLLIN)
            return None
        return "; ".join(problems)

    def serve(self, ready: set[int]) -> None:
        """Handle those of these ready descriptors that belong to this socket."""
        for descriptor in ready & self._clients.keys():
            self._hear(self._clients[descriptor])
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)

    def close(self) -> None:
        """Listen no more, and remove the socket's name."""
        if self._listener is not None:
            with suppress(OSError):
                os.unlink(self._path)
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has already disconnected
        if len(self._clients) >= _CLIENTS:
            self._drop(next(iter(self._clients.values())))
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self._poll.register(client, select.POLLIN)

    def _hear(self, client: socket.socket) -> None:
        try:
            word = client.recv(_WORD).decode(errors="replace")
            if word:
                client.send(self._answer(word).encode())
                return
        except OSError:
            pass
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if self._clients.pop(client.fileno(), None) is not None:
            self._poll.unregister(client)
            client.close()


def _paths() -> Iterator[str]:
    """Where the socket of this network namespace may be."""
    name = f"{os.stat('/proc/self/ns/net').st_ino}.sock"
    for directory in map(os.path.expandvars, DIRECTORIES):
        if not directory.startswith("$"):  # else the variable is not set
            yield os.path.join(directory, name)


def _make_directory(path: str) -> None:
    """Make a directory that only this user can enter. Raises OSError, also if it is another user's."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(None, "it is not a directory of this user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(path, 0o700)


def _listen(path: str) -> socket.socket | None:
    """Listen there; None if another process does. A socket that a killed supervisor has left is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as client:
            try:
                client.connect(path)
            except FileNotFoundError:
                pass
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:  # its backlog is full
                listener.close()
                return None
            else:
                listener.close()
                return None
        listener.bind(path)
        listener.listen(_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener


def request(word: str, patience: float = _PATIENCE_S) -> str:
    """Send a request to this namespace's supervisor and wait ``patience`` seconds for the answer. Raises
    :class:`SupervisorError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        # Not settimeout(), with which connect(2) fails at once when the backlog is full (unix(7)).
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            client.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(int(patience * 1e6), 10**6)))
        try:
            _connect(client)
            client.send(word.encode())
            line = client.recv(1 << 16).decode(errors="replace")
        except BlockingIOError:
            raise SupervisorError(f"The sidecar's supervisor has not answered within {patience:g} s.") from None
        except OSError as error:
            raise SupervisorError(
                f"There is no supervisor of a sidecar in this network namespace ({error.strerror}). Is one running, of "
                "this user, and in this container?"
            ) from None
    if not line:
        raise SupervisorError("The sidecar's supervisor has too much to answer. Ask again.")
    return line


def _connect(client: socket.socket) -> None:
    """Connect to the supervisor. Raises OSError."""
    reason: OSError = FileNotFoundError(None, "no socket")
    for path in _paths():
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, PermissionError) as error:
            reason = error
        else:
            return
    raise reason
