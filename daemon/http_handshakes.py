"""TLS handshakes in progress: bounded for all, and for each address, so that nobody's stop those of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from daemon.turn_order import TurnClient

_A_SECOND: Final = 50.0
"""Of an address that begin in the long run. A client that finds no connection idle opens one, and whoever is late
opens many: without this handshakes would take all the processor that is idle, on both sides, and make it later still.
Clients that keep their connections, as API servers do, seldom need any ..."""
_AT_ONCE: Final = 200
"""... but many at once after a pause."""
_ADDRESSES: Final = 10_000
"""Of which that is remembered, before those that had a pause are forgotten."""
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
        self._next: dict[str, float] = {}
        """By address: when its next handshake may begin, if there had been no pause before."""

    @asynccontextmanager
    async def place(self, address: str, client: TurnClient, scope: trio.CancelScope) -> AsyncIterator[None]:
        """A place for the block, which ``scope`` cancels. Raises trio.TooSlowError at once if there will be none before
        its deadline; then later ones do not wait for it.

        Others of the address are waited for; its oldest one fails if it is stuck. If there are too many of all
        addresses, the oldest one fails of the address that has the most, among those that have not proven themselves
        if there are any.
        """
        await trio.sleep_until(self._may_begin(address, scope.deadline))
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

    def _may_begin(self, address: str, deadline: float) -> float:
        """When the next handshake of an address may begin (a time of trio's clock)."""
        rested = trio.current_time() - _AT_ONCE / _A_SECOND
        if len(self._next) > _ADDRESSES:
            self._next = {each: begins for each, begins in self._next.items() if begins > rested}
        begins = max(self._next.get(address, rested), rested) + 1 / _A_SECOND
        if begins > deadline:
            raise trio.TooSlowError(f"{address} began too many")
        self._next[address] = begins
        return begins

    async def _wait(self, own: _Address) -> None:
        while own.begun:
            with trio.move_on_at(next(iter(own.begun.values())) + _STUCK):
                await own.places.acquire()
                return
            own.end_stuck()
        await own.places.acquire()
