"""One Podlane per network namespace.

The lock is a UDP socket on loopback with a mark of its own (SO_MARK). Sockets belong to the network namespace, which is
exactly the scope of our rules, and vanish with the process, however it ends. Setting a mark takes CAP_NET_ADMIN (or
CAP_NET_RAW), so that other programs of the namespace can neither hold the lock nor pretend to: an abstract Unix socket
could be bound by any of them. sock_diag(7) shows the marks to those who have CAP_NET_ADMIN.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from daemon.log import Logger
from datapath.errors import InstanceRunningError
from datapath.sock_diag import ListenersError, marked_udp_ports
from datapath.sockets import set_mark

_MARK: Final = 0x706F646C
"""Nothing is ever sent with it."""
_PATIENCE_S: Final = 1.0
"""The workers of a killed sidecar hold the lock until they have ended, too, some milliseconds later."""
_PAUSE_S: Final = 0.02
_IP_FREEBIND: Final = 15
"""ip(7): bind even if the loopback interface is down."""

log = Logger()


@contextmanager
def hold_instance_lock() -> Iterator[socket.socket]:
    """Hold the namespace's lock; gives it, for others to hold it as well.

    Without CAP_NET_ADMIN there is nothing that two instances could do to each other, and no lock.
    Raises :class:`InstanceRunningError` when another instance holds it and does not end within a second.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while (lock := _taken()) is None:
        if time.monotonic() > deadline:
            raise InstanceRunningError(
                "Another Podlane already works in this network namespace, a sidecar or a node agent. Stop it first, or "
                "change its policy."
            )
        # Of two that begin at once, both may step back: not for the same time.
        time.sleep(_PAUSE_S * (1 + random.random()))
    with lock:
        yield lock


def instance_running() -> bool | None:
    """Whether an instance works in the calling thread's network namespace; None if the kernel does not tell, as without
    CAP_NET_ADMIN."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            set_mark(probe, 1)  # who may not do this sees no marks
        return bool(marked_udp_ports(_MARK))
    except (OSError, ListenersError):
        return None


def _taken() -> socket.socket | None:
    """The lock; None if another instance holds it."""
    lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        lock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        try:
            set_mark(lock, _MARK)
        except PermissionError:
            return lock
        lock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads what is sent to it
        lock.bind(("127.0.0.1", 0))
        try:
            others = marked_udp_ports(_MARK) - {lock.getsockname()[1]}
        except ListenersError as error:
            log.warning("it cannot be told whether another podlane sidecar works here", error=str(error))
            return lock
    except BaseException:
        lock.close()
        raise
    if not others:
        return lock
    lock.close()
    return None
