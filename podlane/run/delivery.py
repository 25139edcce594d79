"""Has everything that was sent left the namespace?

A program may end right after its last write; the kernel then goes on sending for it. In a slow lane that takes a while,
and deleting the namespace would cut it off: data that an ordinary run of the program would have delivered.
"""

from __future__ import annotations

from typing import Final

from podlane.netns.namespace import Namespace

_LISTEN: Final = 0x0A
"""TCP_LISTEN (linux/tcp_states.h): there the queue's length is the backlog's limit."""


def unsent_bytes(table: str) -> int:
    """Bytes that sockets hold and no peer has acknowledged, from the text of /proc/net/tcp or tcp6 (proc(5))."""
    total = 0
    for line in table.splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) != _LISTEN:
            total += int(fields[4].partition(":")[0], 16)
    return total


def unsent_in(namespace: Namespace) -> int:
    """Unacknowledged TCP bytes of everybody in the namespace, IPv4 and IPv6."""
    total = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            total += unsent_bytes(namespace.read(table))
        except FileNotFoundError:
            continue  # a kernel without IPv6
    return total
