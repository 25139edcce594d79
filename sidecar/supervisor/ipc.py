"""What supervisor and proxy say to each other: JSON over a pair of SOCK_SEQPACKET sockets.

=============  =============  ==========================================================================
to the proxy   ``welcome``    first; with the page of :mod:`.beats`: how often it was started again, and why;
                              the class ids that the last one had armed
to the proxy   ``resume``     you were silent, and capture was taken away: put your rules back
to supervisor  ``armed``      before rules that capture: what to run if I should be gone, instead of earlier
                              ones; and the class ids in force
to supervisor  ``ready``      all is in force
to supervisor  ``not-ready``  that is taken back: nobody waits for it any more, and this proxy ends
=============  =============  ==========================================================================

Nothing else is imported here: the supervisor is to be small.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MOST_BYTES: Final = 1 << 17
"""Of a message; the largest has the rules that leave alone what is excluded, some 100 lines per family."""

Message = dict[str, Any]


class IpcChannel:
    """One end."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def fileno(self) -> int:
        """For whoever waits until there is something to receive."""
        return self.socket.fileno()

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()) -> bool:
        """Send a message; False when nobody is there any more."""
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
        """The next message, which is waited for, and descriptors that are the caller's; None: there will be no more."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, _MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None, []
        return (json.loads(data) if data else None), descriptors

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
