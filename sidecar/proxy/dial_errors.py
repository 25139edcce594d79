"""What it means when connect(2) fails: for the client's side of the story, and for whoever reads the log."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from daemon.log import Logger
from datapath.routing.flow import Destination
from sidecar.transport.observer import Outcome

log = Logger()

WARN_EVERY_S: Final = 10.0
"""Seconds between two warnings about the same kind of local failure."""
_OUTCOMES: Final = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ETIMEDOUT: Outcome.CONNECT_TIMEOUT,
    errno.EHOSTUNREACH: Outcome.UNREACHABLE,
    errno.ENETUNREACH: Outcome.UNREACHABLE,
    errno.EHOSTDOWN: Outcome.UNREACHABLE,
    errno.ENETDOWN: Outcome.UNREACHABLE,
    errno.ENOPROTOOPT: Outcome.UNREACHABLE,
    errno.EACCES: Outcome.UNREACHABLE,
}
NEVER_RELAYED: Final = frozenset({*_OUTCOMES.values(), Outcome.LOCAL_ERROR})
"""Outcomes of connections that never had a server."""
_REMEDIES: Final = {
    errno.EADDRNOTAVAIL: "No ephemeral port is left for this destination. Widen net.ipv4.ip_local_port_range.",
    errno.EMFILE: "No descriptor is left. Raise the limit of open files (ulimit -n), or lower the connection limit.",
    errno.ENFILE: "The system has no descriptor left. Raise fs.file-max.",
    errno.ENOBUFS: "The kernel has no buffer memory left. Raise net.ipv4.tcp_mem, or lower the connection limit.",
    errno.EPERM: "A firewall rule of this namespace rejects it, or CAP_NET_ADMIN is missing.",
}


class DialFailures:
    """Judges failures, and warns about those that are this machine's own fault, not more often than is useful."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now`` is a clock in seconds."""
        self._now = now
        self._warned: dict[int, float] = {}

    def judge(self, number: int, destination: Destination) -> Outcome:
        """The outcome of a connection whose dialling failed with this error number."""
        outcome = _OUTCOMES.get(number, Outcome.LOCAL_ERROR)
        if outcome is Outcome.LOCAL_ERROR:
            self._warn(number, destination)
        return outcome

    def _warn(self, number: int, destination: Destination) -> None:
        now = self._now()
        if now - self._warned.get(number, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned[number] = now
            text = errno.errorcode.get(number, str(number))
            log.warning("cannot dial", destination=str(destination), error=text, remedy=_REMEDIES.get(number, ""))
