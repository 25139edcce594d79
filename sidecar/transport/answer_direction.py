"""The part of a server's direction that reads answers along: it notifies the connection when one has come whole.

It implements :class:`sidecar.transport.direction.FollowedStream`. Bytes pass as without it, and are looked at
afterwards. Those that are known to belong to a body are only counted, so a large body is spliced.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from datapath.protocols.http1_answers import Http1Answers
from sidecar.transport.direction import Direction
from sidecar.transport.loop_context import BUFFER_SIZE
from sidecar.transport.turn import Turn


class AnswersFollower(Protocol):
    """The connection, which is notified of answers."""

    def settle(self) -> None:
        """Answers may have come whole, and bytes may have been acknowledged."""

    def answers_over(self) -> None:
        """No more answers are counted (see :attr:`Http1Answers.over`)."""


class FollowedAnswers:
    """Reads the answers of one direction along (see the module)."""

    cuts: ClassVar[bool] = False

    __slots__ = ("_answers", "_follower")

    def __init__(self, follower: AnswersFollower, answers: Http1Answers) -> None:
        self._follower = follower
        self._answers = answers

    def copy(self, direction: Direction, limit: int) -> Turn | None:
        """Read up to ``limit`` bytes, send them, look at them."""
        direction.last_read = 0
        turn = direction.copy_unseen(limit)
        size = direction.last_read
        if size:
            answers = self._answers
            if size <= answers.left:
                answers.skip(size)
            else:
                answers.feed(direction.loop_context.buffer[:size])
            self._looked()
        return turn

    def splice(self, direction: Direction, limit: int) -> Turn | None:
        """Splice what is known to belong to a body, else copy."""
        pipe, left = direction.pipe, self._answers.left
        if left < BUFFER_SIZE and (pipe is None or not pipe.inside):
            direction.full_reads = 0
            return self.copy(direction, min(limit, BUFFER_SIZE))
        direction.last_read = 0
        turn = direction.splice_unseen(min(limit, left) if left else limit)
        if direction.last_read:
            self._answers.skip(direction.last_read)
            self._looked()
        return turn

    def flush(self, direction: Direction) -> Turn | None:
        """Send the held bytes."""
        assert direction.held is not None
        return direction.flush(direction.held)

    def clear(self) -> None:
        """There is nothing to drop."""

    def _looked(self) -> None:
        if self._answers.over is None:
            self._follower.settle()
        else:
            self._follower.answers_over()
