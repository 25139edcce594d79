"""A thread for what waits for the kernel, so that the event loop does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import trio

from datapath.network_namespace import NetworkNamespace

_T = TypeVar("_T")


class KernelThread:
    """Runs blocking calls (netlink, iptables) one at a time, and each to its end, also when its task is cancelled."""

    def __init__(
        self, namespace: NetworkNamespace | None = None, *, together: trio.CapacityLimiter | None = None
    ) -> None:
        """``namespace`` is the network namespace in which the calls are made, this process's own by default.
        ``together`` limits the calls of several such objects that run at once."""
        self._namespace = namespace
        self._together = together or trio.CapacityLimiter(1)
        self._one = trio.Lock()

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return self._one.locked()

    async def run(self, call: Callable[[], _T]) -> _T:
        """What ``call`` returns. Raises what it raises, and :class:`~datapath.errors.NetworkNamespaceError`."""
        async with self._one:
            return await trio.to_thread.run_sync(partial(self._call, call), limiter=self._together)

    async def idle(self) -> None:
        """Wait until no call is running, nor a pause."""
        async with self._one:
            pass

    def pause(self) -> None:
        """Make no call until :meth:`resume`, which the same task calls. Raises trio.WouldBlock while one is running."""
        self._one.acquire_nowait()

    def resume(self) -> None:
        """Calls are made again."""
        self._one.release()

    def entered(self) -> AbstractContextManager[None]:
        """The calling thread is in the network namespace during the block."""
        return nullcontext() if self._namespace is None else self._namespace.entered()

    def _call(self, call: Callable[[], _T]) -> _T:
        with self.entered():
            return call()
