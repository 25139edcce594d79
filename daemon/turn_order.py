"""In which order clients have their turns, so that none of them waits behind what the others ask for. Pure.

Each client's turns are due by what its earlier ones have cost (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM
1996): who waits gets an equal share, and what it did not use while it did not wait is not saved up. There are two
levels, which share in the same way: clients whose time has mostly gone into good answers have most of it, however many
others there are; those who are new, or cost much and come to nothing, share the rest.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

PROVEN_SHARE: Final = 7.0
"""What clients that have proven themselves get where others wait as well, as a multiple of what all others get."""
_REMEMBERED: Final = 1.0
"""Seconds of the processor after which what a client did before counts half."""
_CLIENTS: Final = 10_000
"""That are remembered."""


@dataclass(eq=False, slots=True)
class _Level:
    """``due``: when its next turn is, in seconds that both levels have had, by their shares. ``clock``: the same of the
    client that had its last turn, in seconds of clients."""

    share: float
    due: float = 0.0
    clock: float = 0.0
    waiting: int = 0
    clients: list[tuple[float, int, TurnClient]] = field(default_factory=list)
    """A heap of those who wait; ``due`` is that of then, and may be later now."""


@dataclass(eq=False, slots=True)
class TurnClient:
    """A client that has turns; :class:`TurnOrder` makes and keeps it."""

    name: str
    level: _Level
    due: float = 0.0
    spent: float = 0.0
    """Seconds of what has come to an end."""
    useful: float = 0.0
    """Those of them for which there was a good answer."""
    listed: bool = False
    """Whether it is among those of its level."""
    waiting: list[tuple[float, int, object]] = field(default_factory=list)
    """A heap."""

    @property
    def proven(self) -> bool:
        """Whether at least half of what it has cost lately went into good answers."""
        return 0 < self.useful >= self.spent / 2


class TurnOrder(Generic[_T]):
    """Those who wait, and who is next. Times are in seconds."""

    def __init__(self) -> None:
        self._proven, self._others = _Level(PROVEN_SHARE), _Level(1.0)
        self._clock = 0.0
        self._clients: dict[str, TurnClient] = {}
        self._numbers = count()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return self._proven.waiting + self._others.waiting > 0

    def client(self, name: str, *, credit: float = 0.0) -> TurnClient:
        """The client of this name. A new one has had ``credit`` seconds of good answers."""
        if name not in self._clients:
            if len(self._clients) >= _CLIENTS:
                self._forget()
            self._clients[name] = TurnClient(name, self._others, useful=credit, spent=credit)
        return self._clients[name]

    def add(self, client: TurnClient, waiter: _T, rank: float = 0.0) -> None:
        """Have a waiter wait. Of one client the lowest rank is next, then who came first."""
        heapq.heappush(client.waiting, (rank, next(self._numbers), waiter))
        if client.listed:
            client.level.waiting += 1
        else:
            self._list(client)

    def remove(self, client: TurnClient, waiter: _T) -> bool:
        """Have it wait no more. Return whether it did."""
        for place, entry in enumerate(client.waiting):
            if entry[2] is waiter:
                del client.waiting[place]
                heapq.heapify(client.waiting)
                client.level.waiting -= 1
                return True
        return False

    def next(self) -> _T:
        """Whose turn it is; it waits no more. Somebody must wait."""
        level = min((each for each in (self._proven, self._others) if each.waiting), key=lambda each: each.due)
        self._clock = max(self._clock, level.due)
        client = self._first(level)
        level.clock = max(level.clock, client.due)
        waiter: _T = heapq.heappop(client.waiting)[2]  # type: ignore[assignment]
        level.waiting -= 1
        if client.waiting:
            level.waiting -= len(client.waiting)
            self._list(client)  # its level may be another one now
        return waiter

    def charge(self, client: TurnClient, seconds: float) -> None:
        """A client has cost so much, in its turn or otherwise."""
        level = client.level
        client.due += seconds
        level.due += seconds / level.share

    def settle(self, client: TurnClient, seconds: float, *, useful: bool) -> None:
        """What came of so much of what it was charged. Until that is known, it does not count for its standing: API
        servers open connections of which they need some later."""
        client.spent += seconds
        client.useful += seconds * useful
        if client.spent > _REMEMBERED:
            client.spent /= 2
            client.useful /= 2

    def _list(self, client: TurnClient) -> None:
        level = self._proven if client.proven else self._others
        if client.level is not level:
            ahead = client.due - client.level.clock
            client.level, client.due = level, level.clock + ahead
        client.due = max(client.due, level.clock)
        if not level.waiting:
            level.due = max(level.due, self._clock)
        level.waiting += len(client.waiting)
        client.listed = True
        heapq.heappush(level.clients, (client.due, next(self._numbers), client))

    def _first(self, level: _Level) -> TurnClient:
        """Who waits and is due first; it is not listed any more."""
        while True:
            due, _, client = heapq.heappop(level.clients)
            if not client.waiting:
                client.listed = False
            elif client.due > due:
                heapq.heappush(level.clients, (client.due, next(self._numbers), client))
            else:
                client.listed = False
                return client

    def _forget(self) -> None:
        """Those who have not proven themselves; if that does not help, all who do not wait."""
        for proven_too in (True, False):
            kept = {n: each for n, each in self._clients.items() if each.listed or (proven_too and each.proven)}
            self._clients = kept
            if len(kept) < _CLIENTS:
                return
