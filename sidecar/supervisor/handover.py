"""What a proxy lends to the one that is to take over from it, beside it: open sockets.

A listening socket that two processes have is one queue of connections: whoever accepts next gets the next one, and when
one of them closes its descriptor nothing is lost. (Two sockets of one SO_REUSEPORT group are two queues: when one is
closed what waits in it is reset.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from socket import SocketType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Heirloom:
    """``groups``: the listeners of each process that relays. ``lock``: see :mod:`datapath.instance_lock`, ``reserved``:
    :mod:`datapath.netfilter.ports`.

    ``captured``: there may be connections that need the rules of what was captured, for as long as the lender lives,
    and ``captured_inbound``: also those that clients opened.
    """

    lock: SocketType
    admin: tuple[SocketType, ...] = ()
    groups: tuple[tuple[SocketType, ...], ...] = ()
    reserved: tuple[int, ...] = ()
    captured: bool = False
    captured_inbound: bool = False

    def told(self) -> dict[str, Any]:
        """What the descriptors are, as plain data."""
        sizes = [len(group) for group in self.groups]
        return {
            "admin": len(self.admin),
            "groups": sizes,
            "reserved": self.reserved,
            "captured": self.captured,
            "captured_inbound": self.captured_inbound,
        }

    def descriptors(self) -> list[int]:
        """In the order in which :meth:`of` takes them."""
        sockets = (self.lock, *self.admin, *(each for group in self.groups for each in group))
        return [each.fileno() for each in sockets]

    @classmethod
    def of(cls, told: Mapping[str, Any], descriptors: Sequence[int]) -> Self:
        """The other way round; the descriptors are its own from now on."""
        rest = iter([SocketType(fileno=each) for each in descriptors])
        lock = next(rest)
        admin = tuple(next(rest) for _ in range(told["admin"]))
        groups = tuple(tuple(next(rest) for _ in range(size)) for size in told["groups"])
        for each in (*admin, *(one for group in groups for one in group)):
            each.setblocking(False)
        captured = told["captured"], told["captured_inbound"]
        return cls(lock, admin, groups, tuple(told["reserved"]), *captured)

    def let_go(self, used: Iterable[SocketType]) -> None:
        """Close what nobody has taken. ``used`` are the listeners that somebody has."""
        kept = set(used)
        for each in (*self.admin, *(one for group in self.groups for one in group)):
            if each not in kept:
                each.close()

    def on(self, port: int) -> list[list[SocketType]]:
        """The listeners on a port, of each process that relays."""
        return [[each for each in group if each.getsockname()[1] == port] for group in self.groups]
