"""The results of connect(2): the event that reports one, and what a failure means for the client and the log."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from socket import SocketType
from typing import Final, Protocol

from daemon.log import Logger
from datapath.routing.flow import Destination
from sidecar.transport.observer import ConnectionOutcome

log = Logger()

WARN_EVERY_S: Final = 10.0
"""Seconds between two warnings about the same kind of local failure."""
_OUTCOMES: Final = {
    errno.ECONNREFUSED: ConnectionOutcome.REFUSED,
    errno.ETIMEDOUT: ConnectionOutcome.CONNECT_TIMEOUT,
    errno.EHOSTUNREACH: ConnectionOutcome.UNREACHABLE,
    errno.ENETUNREACH: ConnectionOutcome.UNREACHABLE,
    errno.EHOSTDOWN: ConnectionOutcome.UNREACHABLE,
    errno.ENETDOWN: ConnectionOutcome.UNREACHABLE,
    errno.ENOPROTOOPT: ConnectionOutcome.UNREACHABLE,
    errno.EACCES: ConnectionOutcome.UNREACHABLE,
}
NEVER_RELAYED: Final = frozenset({*_OUTCOMES.values(), ConnectionOutcome.LOCAL_ERROR})
"""Outcomes of connections that never had a server."""
_REMEDIES: Final = {
    errno.EADDRNOTAVAIL: "No ephemeral port is left for this destination. Widen net.ipv4.ip_local_port_range.",
    errno.EMFILE: "No descriptor is left. Raise the limit of open files (ulimit -n), or lower the connection limit.",
    errno.ENFILE: "The system has no descriptor left. Raise fs.file-max.",
    errno.ENOBUFS: "The kernel has no buffer memory left. Raise net.ipv4.tcp_mem, or lower the connection limit.",
    errno.EPERM: "A firewall rule of this namespace rejects it, or CAP_NET_ADMIN is missing.",
}
_DIALLED: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP


class Dials(Protocol):
    """The connection whose server is being dialled."""

    @property
    def upstream(self) -> SocketType | None:
        """The connecting socket; None: no longer."""

    def dialled(self, upstream: SocketType, events: int) -> None:
        """connect(2) has ended, successfully or not."""

    def crashed(self, error: Exception) -> None:
        """A handler raised: clean up. Must not raise."""


class Dialling:
    """The loop's handler of the upstream descriptor during connect(2)."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Dials) -> None:
        self._connection = connection

    def on_events(self, events: int) -> None:
        """Writable: connected. Error: failed."""
        upstream = self._connection.upstream
        if events & _DIALLED and upstream is not None:
            self._connection.dialled(upstream, events)

    def on_turn(self) -> None:
        """Not used."""

    def crashed(self, error: Exception) -> None:
        """Pass a fault to the connection."""
        self._connection.crashed(error)


class DialFailures:
    """Classifies failures, and logs rate-limited warnings about those caused by this machine."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now`` is a clock in seconds."""
        self._now = now
        self._warned: dict[int, float] = {}

    def classify(self, number: int, destination: Destination) -> ConnectionOutcome:
        """The outcome of a connection whose dialling failed with this errno."""
        outcome = _OUTCOMES.get(number, ConnectionOutcome.LOCAL_ERROR)
        if outcome is ConnectionOutcome.LOCAL_ERROR:
            self._warn(number, destination)
        return outcome

    def _warn(self, number: int, destination: Destination) -> None:
        now = self._now()
        if now - self._warned.get(number, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned[number] = now
            text = errno.errorcode.get(number, str(number))
            log.warning("cannot dial", destination=str(destination), error=text, remedy=_REMEDIES.get(number, ""))
