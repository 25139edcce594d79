"""The memory of a process and all that it starts, looked at again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.processes import process_tree, resident_mib

_EVERY_S: Final = 0.2


@dataclass
class Watched:
    """What was seen, in MiB: what processes share counts once (Pss)."""

    mib: list[float] = field(default_factory=list)


@contextmanager
def watched(pid: int) -> Iterator[Watched]:
    """Look until the block ends."""
    seen, over = Watched(), threading.Event()

    def look() -> None:
        while True:
            seen.mib.append(resident_mib(process_tree(pid)))
            if over.wait(_EVERY_S):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
