"""What supervisor and proxy say to each other: JSON over a pair of SOCK_SEQPACKET sockets, with descriptors.

=============  =============  ==========================================================================
to the proxy   ``welcome``    first; with the page of :mod:`.beats`: how often it was started anew, and why;
                              the class ids that the last one had armed
to the proxy   ``resume``     you were silent, and capture was taken away, or nobody takes over from you: put your
                              rules back, and follow the policy
to the proxy   ``lend``       another is to take over: answer by ``lent``, and change nothing from then on
to the proxy   ``leave``      it has: let your connections end, and leave what is installed
to the proxy   ``alone``      the one has ended that you took over from
to supervisor  ``lent``       with descriptors: what an heir needs to begin beside its predecessor; or nothing,
                              since I end and it may begin then; or the problem for which there can be none
to supervisor  ``leaving``    I let my connections end, and when the grace period is over I do
to supervisor  ``armed``      before rules that capture: what to run if I should be gone, instead of earlier
                              ones; and the class ids in force
to supervisor  ``standby``    with the socket behind which it is: there is a process, my child, that can be
                              welcomed in my place when I am gone (:mod:`sidecar.app.standby`)
to supervisor  ``ready``      all is in force
to supervisor  ``not-ready``  that is taken back: nobody waits for it any more, and this proxy ends
=============  =============  ==========================================================================

Nothing else is imported here: the supervisor is to be small.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MOST_BYTES: Final = 1 << 17
"""Of a message; the largest has the rules that leave alone what is excluded, some 100 lines per family."""
MOST_DESCRIPTORS: Final = 253
"""Of a message: SCM_MAX_FD (unix(7))."""

Message = dict[str, Any]


class Wire:
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
        received = array.array("i")
        try:
            data, extra, _, _ = self.socket.recvmsg(
                _MOST_BYTES, socket.CMSG_SPACE(received.itemsize * MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None, []
        for _level, _type, what in extra:
            received.frombytes(what[: len(what) - len(what) % received.itemsize])
        return (json.loads(data) if data else None), list(received)

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
