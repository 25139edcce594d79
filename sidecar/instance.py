"""One Podlane per network namespace.

The lock is an abstract unix socket: such names belong to the network namespace (unix(7), network_namespaces(7)), which
is exactly the scope of our rules, and vanish with the process, however it ends.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sidecar.errors import InstanceRunningError

_NAME: Final = "\0podlane/sidecar"


@contextmanager
def only_instance() -> Iterator[None]:
    """Hold the namespace's lock. Raises :class:`InstanceRunningError` when another instance holds it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(_NAME)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise InstanceRunningError(
                "Another podlane sidecar already works in this network namespace. Stop it first, or change its policy "
                "file and send it SIGHUP."
            ) from None
        yield
