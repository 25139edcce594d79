"""A mapping that forgets what is oldest: for what has been found out, and can be found out again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

_PART: Final = 64

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """At most ``most`` entries. One that is full forgets a 64th of them at once, those set or renewed longest ago.

    Several threads may use it.
    """

    __slots__ = ("_entries", "_most", "get")

    get: Callable[[K], V | None]
    """The value of a key; None: there is none. (The mapping's own method: a call less.)"""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def __setitem__(self, key: K, value: V) -> None:
        entries = self._entries
        if key not in entries and len(entries) >= self._most:
            for _ in range(self._most // _PART + 1):
                entries.popitem(last=False)
        entries[key] = value
        try:
            entries.move_to_end(key)
        except KeyError:  # it was old, and another thread has forgotten it meanwhile
            entries[key] = value

    def items(self) -> list[tuple[K, V]]:
        """All entries, the oldest first."""
        return list(self._entries.items())

    def renew(self, key: K) -> None:
        """Let a key that is there be forgotten last."""
        self._entries.move_to_end(key)

    def pop(self, key: K) -> V | None:
        """Forget a key, if it is there; its value."""
        return self._entries.pop(key, None)
