"""State shared by all connections of a loop: the loop itself, one buffer, pipes."""

from __future__ import annotations

from typing import Final

from sidecar.transport.loop import EventLoop
from sidecar.transport.pipes import PipePool

BUFFER_SIZE: Final = 1 << 16
"""Bytes per read: larger reads exceed the L2 cache, smaller ones cost more calls."""


class LoopContext:
    """The event loop, the copy buffer and the pipes, shared by all directions of a loop."""

    def __init__(self, loop: EventLoop, pipes: PipePool | None = None) -> None:
        self.loop = loop
        self.buffer = bytearray(BUFFER_SIZE)
        self.view = memoryview(self.buffer)
        self.pipes = pipes if pipes is not None else PipePool()
