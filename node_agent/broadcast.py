"""Something happened, for all who wait for it."""

from __future__ import annotations

import trio


class Broadcast:
    """Unlike an Event it happens again and again. Who waits looks first, without an await between, and so
    misses nothing."""

    def __init__(self) -> None:
        self._next = trio.Event()

    def tell(self) -> None:
        """It happened."""
        self._next.set()
        self._next = trio.Event()

    def next(self) -> trio.Event:
        """Is set when it happens next."""
        return self._next

    async def wait(self) -> None:
        """Until it happens next."""
        await self._next.wait()
