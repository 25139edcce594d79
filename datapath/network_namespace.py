"""Other network namespaces, which a thread enters for one piece of work at a time (network_namespaces(7), setns(2)).

A socket stays in the namespace in which it was made, and a program runs in that of the thread that starts it. So it
takes no thread or process for each namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from datapath.errors import NetworkNamespaceError

CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h."""
_HERE: Final = "/proc/thread-self/ns/net"
_REMEDIES: Final = {
    errno.ENOENT: "`ip netns list` and `lsns --type net` show those that there are.",
    errno.EINVAL: "Name a file below /run/netns, or /proc/PID/ns/net.",
    errno.EPERM: "It takes root, or CAP_SYS_ADMIN.",
    errno.EACCES: "It takes root, or CAP_SYS_PTRACE for those of other users' processes.",
}

Identity = tuple[int, int]
"""Device and inode: the same for all names of a namespace (namespaces(7))."""

_libc = ctypes.CDLL(None, use_errno=True)


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace behind ``descriptor`` (setns(2)). Raises OSError.

    ``os.setns`` exists since Python 3.12. Safe between fork and exec.
    """
    if _libc.setns(descriptor, kind):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


class NetworkNamespace:
    """A network namespace, held by an open file: it stays until :meth:`close`, even if its name and processes end."""

    def __init__(self, path: Path | str) -> None:
        """``path`` is below /run/netns, or /proc/PID/ns/net. Raises :class:`NetworkNamespaceError`."""
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _explain(self.path, error) from None
        self.identity = _identity(os.fstat(self._descriptor))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor by which it is held."""
        return self._descriptor

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def named(self) -> bool:
        """Whether its path still leads to it; if not, whoever made it has removed it, or made another one."""
        return self.is_at(self.path)

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to it."""
        return identity_at(path) == self.identity

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in it during the block. Raises :class:`NetworkNamespaceError`."""
        before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                setns(self._descriptor, CLONE_NEWNET)
            except OSError as error:
                raise _explain(self.path, error) from None
            try:
                yield
            finally:
                setns(before, CLONE_NEWNET)
        finally:
            os.close(before)


def identity_at(path: Path) -> Identity | None:
    """The identity of the network namespace at a path; None if it is not there."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def here() -> Identity:
    """The identity of the calling thread's network namespace."""
    return _identity(os.stat(_HERE))


def is_namespace(path: Path) -> bool:
    """Whether it is a namespace: its name is there a moment before it, and a moment after (ip-netns(8))."""
    found = identity_at(path)
    return found is not None and found[0] == here()[0]


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _explain(path: Path, error: OSError) -> NetworkNamespaceError:
    number = error.errno or 0
    text = f"The network namespace {path} cannot be entered: {error.strerror}. {_REMEDIES.get(number, '')}"
    return NetworkNamespaceError(text.rstrip(), number)


def all_namespaces() -> dict[Identity, Path]:
    """A path for each network namespace that has a name below /run/netns, or a process visible here."""
    found: dict[Identity, Path] = {}
    for path in (*Path("/proc").glob("[0-9]*/ns/net"), *Path("/run/netns").glob("*")):
        try:
            found[_identity(path.stat())] = path
        except OSError:
            continue  # it has ended
    return found
