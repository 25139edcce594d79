"""The messages between supervisor and proxy: JSON over a pair of SOCK_SEQPACKET sockets.

=============  =============  ==========================================================================
to the proxy   ``welcome``    first message, with the page of :mod:`.heartbeat`: number of restarts and
                              their reasons; the class ids that the last proxy had armed; the
                              listeners that it had the supervisor hold
to the proxy   ``bypass``     heartbeats are missing and capture is about to be removed: leave it so
to the proxy   ``resume``     heartbeats were missing and capture was removed: reinstall the rules
to supervisor  ``armed``      before capture rules are installed: the fallback to run if the proxy ends,
                              replacing earlier ones; and the class ids in force
to supervisor  ``hold``       listeners for the next proxy: no other program gets their port meanwhile
to supervisor  ``ready``      everything is in force
to supervisor  ``not-ready``  readiness is withdrawn: heartbeats are not expected, and this proxy ends
=============  =============  ==========================================================================

Nothing else is imported here, to keep the supervisor small.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MOST_BYTES: Final = 1 << 17
"""Maximum bytes of a message; the largest has the rules for excluded destinations, some 100 lines per family."""

_MOST_DESCRIPTORS: Final = 16

Message = dict[str, Any]


class IpcChannel:
    """One end of the socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def fileno(self) -> int:
        """For poll(2)."""
        return self.socket.fileno()

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()) -> bool:
        """Send a message; False if the peer has closed."""
        data = json.dumps({"kind": kind, **(fields or {})}).encode()
        try:
            if descriptors:
                socket.send_fds(self.socket, [data], list(descriptors))
            else:
                self.socket.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> tuple[Message | None, list[int]]:
        """Wait for the next message and its descriptors, which the caller owns; None: the peer has closed."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.socket, _MOST_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None, []
        return (json.loads(data) if data else None), descriptors

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
