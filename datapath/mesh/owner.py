"""Sockets that belong to another user, as the owner match of netfilter sees it.

A socket belongs to the file system uid of the thread that created it (xt_owner.c compares ``file->f_cred->fsuid``). The
thread can change that uid temporarily without losing a needed capability (capabilities(7): only those for files are
dropped). setfsuid(2) reports no errors; it returns only the previous uid.
"""

from __future__ import annotations

import ctypes
from functools import cache
from socket import SocketType

from datapath.errors import PrivilegeError
from datapath.sockets import stream_socket


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def stream_socket_of(user: int, family: int) -> SocketType:
    """:func:`~datapath.sockets.stream_socket`, belonging to the uid ``user``. Raises OSError (EMFILE ...)."""
    setfsuid = _libc().setfsuid
    before = setfsuid(user)
    try:
        return stream_socket(family)
    finally:
        setfsuid(before)


def check_may_be(user: int) -> None:
    """Raise :class:`PrivilegeError` when sockets cannot be made for ``user``."""
    setfsuid = _libc().setfsuid
    before = setfsuid(user)
    # setfsuid(-1) changes nothing and returns the current uid.
    now = setfsuid(-1)
    setfsuid(before)
    if now != user:
        raise PrivilegeError(
            f"Making sockets that belong to uid {user} takes CAP_SETUID. Add SETUID to the container's capabilities."
        )
