"""The two directions of a relayed connection."""

from __future__ import annotations

from socket import SocketType

from sidecar.transport.direction import Direction, DirectionOwner
from sidecar.transport.loop_context import LoopContext
from traffic_policy.policy import Bound


class Pair:
    """*Up* is from the client to the server, *down* from the server to the client."""

    __slots__ = ("_quiet_sweeps", "_swept_bytes", "down", "up")

    def __init__(
        self, loop_context: LoopContext, owner: DirectionOwner, client: SocketType, upstream: SocketType
    ) -> None:
        up = self.up = Direction(loop_context, owner, client, upstream)
        down = self.down = Direction(loop_context, owner, upstream, client)
        up.opposite, down.opposite = down, up
        self._swept_bytes = 0
        self._quiet_sweeps = 0

    @property
    def queued(self) -> bool:
        """Whether a direction has bytes to move and waits for its turn."""
        return self.up.queued or self.down.queued

    def sending(self, bound: Bound) -> Direction:
        """The direction into the network, for an outbound connection."""
        return self.up if bound is Bound.OUTBOUND else self.down

    def receiving(self, bound: Bound) -> Direction:
        """The direction from the network."""
        return self.down if bound is Bound.OUTBOUND else self.up

    def is_idle(self, sweeps: int) -> bool:
        """Whether nothing has moved for the idle timeout. Must be called ``sweeps`` times per timeout."""
        moved = self.up.count + self.down.count
        if moved != self._swept_bytes or self.queued:
            self._swept_bytes = moved
            self._quiet_sweeps = 0
            return False
        self._quiet_sweeps += 1
        return self._quiet_sweeps > sweeps  # one more: the first sweep did not see a whole interval

    def release(self) -> None:
        """Release both directions after the connection was closed."""
        self.up.release()
        self.down.release()
