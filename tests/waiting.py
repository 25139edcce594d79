"""Waiting for what a test needs, by asking for it; bounded, so that a failure names what never came."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from podlane.netns.lab import Host

_T = TypeVar("_T")
_PAUSE, _LONGEST_PAUSE = 0.01, 0.15
"""Seconds between two questions to something that cannot notify: as long as the last question took, or a tenth of the time
so far, within these bounds. A question is often a program that is started, and others want the processors."""


def until(what: str, ask: Callable[[], _T | None], *, patience: float = 20.0) -> _T:
    """Ask until the answer is true-ish, and return it; fails after ``patience`` seconds, naming ``what``."""
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        answer = ask()
        if answer:
            return answer
        now = time.monotonic()
        if now - began > patience:
            raise AssertionError(f"waited {patience:g} s in vain for {what} (last answer: {answer!r})")
        time.sleep(min(max(_PAUSE, now - asked, (now - began) / 10), _LONGEST_PAUSE))


async def becomes(what: str, ask: Callable[[], _T | None], *, patience: float = 20.0) -> _T:
    """The same while the tasks of trio go on. ``ask`` is called in a thread."""
    return await trio.to_thread.run_sync(partial(until, what, ask, patience=patience))


def until_listening(host: Host, port: int) -> None:
    """Wait until some process of the host listens on a TCP port."""
    suffix = f":{port:04X}"

    def listens() -> bool:
        rows = host.read("/proc/net/tcp").splitlines()[1:] + host.read("/proc/net/tcp6").splitlines()[1:]
        return any(row.split()[1].endswith(suffix) and row.split()[3] == "0A" for row in rows)

    until(f"a listener on port {port}", listens)
