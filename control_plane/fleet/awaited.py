"""Which agents have not said yet that they have a revision, as long as somebody traces it."""

from __future__ import annotations

from collections.abc import Iterable

from control_plane.tracing import ChangeTraces, Ended

Node = tuple[str, str]
"""Cluster and node."""


class AwaitedAgents:
    """Of one tenant. All in the gateway's thread."""

    def __init__(self, tenant: str, traces: ChangeTraces) -> None:
        self._tenant = tenant
        self._traces = traces
        self._revision = 0
        self._waiting: set[Node] = set()
        self._ended: Ended | None = None

    def told(self, revision: int, agents: Iterable[Node]) -> None:
        """These are being told of a revision; who still waits for the one before will have this."""
        self._end()
        waiting = set(agents)
        self._ended = self._traces.deliver(self._tenant, revision, len(waiting))
        if self._ended is not None:
            self._revision, self._waiting = revision, waiting
            self.answered(("", ""), revision)

    def answered(self, node: Node, revision: int) -> None:
        """It says that it has a revision, or refuses it."""
        if self._ended is not None and revision >= self._revision:
            self._waiting.discard(node)
            if not self._waiting:
                self._end()

    def left(self, node: Node) -> None:
        """It is not connected any more: nobody waits for it."""
        self.answered(node, self._revision)

    def _end(self) -> None:
        if self._ended is not None:
            self._ended(len(self._waiting))
            self._ended = None
        self._waiting = set()
