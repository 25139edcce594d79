"""TLS handshakes in progress: bounded for all, and for each address, so that nobody's stop those of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

_PATIENCE: Final = 1.0
"""Seconds that a handshake waits for others of its address; clients that are there answer within some milliseconds."""


@dataclass(eq=False, slots=True)
class _Address:
    places: trio.Semaphore
    begun: dict[trio.CancelScope, None] = field(default_factory=dict)
    """The oldest first."""
    users: int = 0
    """Those in progress, and those that wait."""

    def end_oldest(self) -> None:
        if self.begun:
            scope = next(iter(self.begun))
            del self.begun[scope]
            scope.cancel()


class Handshakes:
    """``most`` at once, of which ``per_address`` of one address."""

    def __init__(self, most: int, per_address: int) -> None:
        self._most = most
        self._per_address = per_address
        self._addresses: dict[str, _Address] = {}

    @asynccontextmanager
    async def place(self, address: str, scope: trio.CancelScope) -> AsyncIterator[None]:
        """A place for the block, which ``scope`` cancels.

        Others of the address are waited for; after a second its oldest one fails. If there are too many of all
        addresses, the oldest one fails of the address that has the most.
        """
        if address not in self._addresses:
            self._addresses[address] = _Address(trio.Semaphore(self._per_address))
        own = self._addresses[address]
        own.users += 1
        try:
            await self._wait(own)
            try:
                if sum(len(each.begun) for each in self._addresses.values()) >= self._most:
                    max(self._addresses.values(), key=lambda each: len(each.begun)).end_oldest()
                own.begun[scope] = None
                yield
            finally:
                own.begun.pop(scope, None)
                own.places.release()
        finally:
            own.users -= 1
            if not own.users:
                del self._addresses[address]

    async def _wait(self, own: _Address) -> None:
        with trio.move_on_after(_PATIENCE):
            await own.places.acquire()
            return
        own.end_oldest()
        await own.places.acquire()
