"""A thread for what waits for the kernel, so that the event loop does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

_T = TypeVar("_T")


class KernelThread:
    """Runs blocking calls (netlink, iptables) one at a time, and each to its end, also when its task is cancelled."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return not self._limiter.available_tokens

    async def run(self, call: Callable[[], _T]) -> _T:
        """What ``call`` returns. Raises what it raises."""
        return await trio.to_thread.run_sync(call, limiter=self._limiter)
