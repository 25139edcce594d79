"""A request of HTTP/2 and its answer, and what happens to it. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from control_plane.gateway import frames
from control_plane.gateway.frames import DEFAULT_WINDOW, MAX_FRAME


class Http2Stream:
    """A request and its answer. Its connection alone changes it, and wants it back from who got it by an event."""

    __slots__ = (
        "_offset",
        "_queue",
        "body_left",
        "number",
        "request_ended",
        "trailers",
        "unsent",
        "window_in",
        "window_out",
    )

    def __init__(self, number: int, window: int) -> None:
        """``window``: how many bytes the client takes before it has said anything about this stream."""
        self.number = number
        self.unsent = 0
        """Bytes of the answer that wait for the client's windows."""
        self.request_ended = False
        self.body_left: int | None = None
        """What is missing of the length that the client has announced."""
        self.trailers: bytes | None = None
        """To be sent after the body: then the answer is complete."""
        self.window_in = DEFAULT_WINDOW
        self.window_out = window
        self._queue: deque[bytes] = deque()
        self._offset = 0
        """Bytes of the first one in the queue that are sent."""

    def append(self, data: bytes) -> None:
        """Queue a part of the answer. It is not copied."""
        if data:
            self._queue.append(data)
            self.unsent += len(data)

    def take(self, size: int, window: int, pieces: list[bytes | memoryview]) -> int:
        """Move frames into ``pieces``: ``size`` bytes at most, and what this and the connection's ``window`` allow.

        How many bytes of the windows they need.
        """
        queue = self._queue
        taken = 0
        most = min(size, window)
        while queue:
            data = queue[0]
            length = len(data) - self._offset
            room = min(most - taken, self.window_out, MAX_FRAME)
            if room <= 0:
                break
            if length <= room:
                piece: bytes | memoryview = memoryview(data)[self._offset :] if self._offset else data
                queue.popleft()
                self._offset = 0
            else:
                piece = memoryview(data)[self._offset : self._offset + room]
                self._offset += room
                length = room
            pieces.append(frames.frame_header(length, frames.DATA, 0, self.number))
            pieces.append(piece)
            self.window_out -= length
            self.unsent -= length
            taken += length
        return taken


@dataclass(slots=True)
class RequestBegun:
    """A request, by its fields."""

    stream: Http2Stream
    fields: dict[bytes, bytes]


@dataclass(slots=True)
class BodyReceived:
    """A part of the request's body. ``ended``: the last one."""

    stream: Http2Stream
    data: bytes
    ended: bool = False


@dataclass(slots=True)
class RequestReset:
    """The client has given the request up, or broken a rule. The stream is no more."""

    stream: Http2Stream


Http2Event = RequestBegun | BodyReceived | RequestReset
