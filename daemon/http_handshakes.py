"""TLS handshakes in progress: bounded for all, and for each address, so that nobody's stop those of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from daemon.turn_order import TurnClient

_STUCK: Final = 5.0
"""Seconds after which a handshake has to make room for others of its address. Clients that are there answer within some
milliseconds, and within a second where everybody is busy."""


@dataclass(eq=False, slots=True)
class _Address:
    client: TurnClient
    places: trio.Semaphore
    begun: dict[trio.CancelScope, float] = field(default_factory=dict)
    """When, the oldest first."""
    users: int = 0
    """Those in progress, and those that wait."""

    def end_stuck(self) -> None:
        if self.begun and next(iter(self.begun.values())) + _STUCK <= trio.current_time():
            self.end_oldest()

    def end_oldest(self) -> None:
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
    async def place(self, address: str, client: TurnClient, scope: trio.CancelScope) -> AsyncIterator[None]:
        """A place for the block, which ``scope`` cancels.

        Others of the address are waited for; its oldest one fails if it is stuck. If there are too many of all
        addresses, the oldest one fails of the address that has the most, among those that have not proven themselves
        if there are any.
        """
        if address not in self._addresses:
            self._addresses[address] = _Address(client, trio.Semaphore(self._per_address))
        own = self._addresses[address]
        own.users += 1
        try:
            await self._wait(own)
            try:
                begun = [each for each in self._addresses.values() if each.begun]
                if sum(len(each.begun) for each in begun) >= self._most:
                    max(begun, key=lambda each: (not each.client.proven, len(each.begun))).end_oldest()
                own.begun[scope] = trio.current_time()
                yield
            finally:
                own.begun.pop(scope, None)
                own.places.release()
        finally:
            own.users -= 1
            if not own.users:
                del self._addresses[address]

    async def _wait(self, own: _Address) -> None:
        while own.begun:
            with trio.move_on_at(next(iter(own.begun.values())) + _STUCK):
                await own.places.acquire()
                return
            own.end_stuck()
        await own.places.acquire()
