"""One Podlane per network namespace.

The lock is an abstract unix socket: such names belong to the network namespace (unix(7), network_namespaces(7)), which
is exactly the scope of our rules, and vanish with the process, however it ends.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from datapath.errors import InstanceRunningError

_NAME: Final = "\0podlane/sidecar"
_PATIENCE_S: Final = 1.0
"""The workers of a killed sidecar hold the lock until they have ended, too, some milliseconds later."""
_PAUSE_S: Final = 0.02


@contextmanager
def hold_instance_lock() -> Iterator[socket.socket]:
    """Hold the namespace's lock; gives it, for others to hold it as well.

    Raises :class:`InstanceRunningError` when another instance holds it and does not end within a second.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        deadline = time.monotonic() + _PATIENCE_S
        while not _taken(lock):
            if time.monotonic() > deadline:
                raise InstanceRunningError(
                    "Another podlane sidecar already works in this network namespace. Stop it first, or change its "
                    "policy file and send it SIGHUP."
                )
            time.sleep(_PAUSE_S)
        yield lock


def _taken(lock: socket.socket) -> bool:
    try:
        lock.bind(_NAME)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
