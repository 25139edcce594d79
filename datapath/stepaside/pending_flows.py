"""A table of flows whose first bytes do not suffice yet, bounded in number, bytes and time. Pure.

TCP connections (:mod:`datapath.stepaside.classifier`) and QUIC flows (:mod:`datapath.stepaside.quic_flows`) have one
table each. The table selects the flows to evict, oldest first; its owner decides their class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

PATIENCE_S: Final = 30.0
"""Seconds beyond the detection timeout after which a silent flow is evicted. A hello interrupted by packet loss
continues within some seconds, and conntrack expires a UDP flow without an answer after the same time
(nf_conntrack_udp_timeout, Documentation/networking/nf_conntrack-sysctl.rst)."""


class PendingFlow(Protocol):
    """The state of one flow. It began at ``since`` (monotonic seconds) and holds ``held`` bytes."""

    @property
    def since(self) -> float: ...
    @property
    def held(self) -> int: ...


_T = TypeVar("_T", bound=PendingFlow)


class PendingFlows(Generic[_T]):
    """The table of one transport. Not thread-safe."""

    def __init__(self, *, most: int, most_held: int, longest: float) -> None:
        """Bounds: ``most`` flows, ``most_held`` bytes in all; a silent flow is overdue after ``longest`` seconds."""
        self._most = most
        self._most_held = most_held
        self._longest = longest
        self._by_flow: dict[bytes, _T] = {}  # by start time
        self.held = 0
        """Bytes held for all flows."""

    def __len__(self) -> int:
        return len(self._by_flow)

    @property
    def oldest(self) -> bytes:
        """The flow that began first; there must be one."""
        return next(iter(self._by_flow))

    def get(self, flow: bytes) -> _T | None:
        """The state of a flow, if any."""
        return self._by_flow.get(flow)

    def add(self, flow: bytes, opening: _T) -> None:
        """Add the state of a new flow."""
        self._by_flow[flow] = opening
        self.held += opening.held

    def grew(self, opening: _T, before: int) -> None:
        """Account for a change of the held bytes from ``before`` to their present number."""
        self.held += opening.held - before

    def pop(self, flow: bytes) -> _T | None:
        """Remove and return the state of a flow, if any."""
        opening = self._by_flow.pop(flow, None)
        if opening is not None:
            self.held -= opening.held
        return opening

    def surplus(self, flow: bytes) -> Iterator[bytes]:
        """Flows to evict for ``flow``, which is new or has grown. Pop each before advancing the iterator."""
        while len(self._by_flow) > 1 and (len(self._by_flow) > self._most or self.held > self._most_held):
            yield next(other for other in self._by_flow if other != flow)

    def overdue(self, now: float) -> Iterator[bytes]:
        """Flows that have been silent for too long. Pop each before advancing the iterator."""
        while self._by_flow:
            flow, opening = next(iter(self._by_flow.items()))
            if now - opening.since <= self._longest:
                return
            yield flow
