"""How much is decoded at once, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

MAX_DECODED: Final = 4 * 2**20
"""Bytes of the bodies that are decoded at once; others wait. As Python's objects a body can take 30 times its size, and
the chart allows the injector 256 MiB."""


class DecodingBudget:
    """Bytes of the bodies that are decoded now."""

    def __init__(self) -> None:
        self._decoded = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def decoding(self, size: int) -> AsyncIterator[None]:
        """Decode and use a body inside the block. Waits for room among others; alone there is always enough."""
        while self._decoded and self._decoded + size > MAX_DECODED:
            await self._waiting.park()
        self._decoded += size
        try:
            yield
        finally:
            self._decoded -= size
            self._waiting.unpark_all()
