"""Looks after all lanes of a node once per second, in one call to a thread: hopping there for each would cost more than
looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from datapath.data_plane import DataPlane
from datapath.enforcement import Part
from traffic_policy.errors import PodlaneError

EVERY_S: Final = 1.0
"""Seconds between two readings of the counters; rates are means over this interval."""

Found = frozenset[Part] | PodlaneError
"""What is missing, or why nothing is known."""


class Sweeper:
    """Looks at data planes; those that are just being changed have their turn a second later."""

    def __init__(self) -> None:
        self._told: dict[DataPlane, Callable[[Found], None]] = {}

    @contextmanager
    def looking_at(self, plane: DataPlane, tell: Callable[[Found], None]) -> Iterator[None]:
        """Look at it during the block, and call ``tell`` after each look."""
        self._told[plane] = tell
        try:
            yield
        finally:
            del self._told[plane]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(EVERY_S)
            due = [plane for plane in self._told if plane.rest()]
            try:
                with trio.CancelScope(shield=True):
                    found = await trio.to_thread.run_sync(partial(_look_at, due))
            finally:
                for plane in due:
                    plane.resume()
            for plane, seen in zip(due, found, strict=True):
                if (tell := self._told.get(plane)) is not None:
                    tell(seen)


def _look_at(planes: list[DataPlane]) -> list[Found]:
    found: list[Found] = []
    for plane in planes:
        try:
            found.append(plane.look())
        except PodlaneError as error:
            found.append(error)
    return found
