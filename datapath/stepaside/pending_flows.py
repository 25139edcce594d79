"""Flows whose first bytes do not suffice yet: bounded in number, in bytes, and in time. Pure.

TCP connections (:mod:`datapath.stepaside.classifier`) and QUIC's flows (:mod:`datapath.stepaside.quic_flows`) have a
table each. Who is to leave it is told here, the oldest first; what becomes of those is their owner's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

PATIENCE_S: Final = 30.0
"""How long beyond the detection timeout a flow is waited for that says nothing more. A hello that was cut by a loss
goes on within some seconds; and conntrack itself forgets a UDP flow without an answer after so long
(nf_conntrack_udp_timeout, Documentation/networking/nf_conntrack-sysctl.rst)."""


class PendingFlow(Protocol):
    """What is known of one of them. It begins at ``since`` (monotonic seconds), and holds ``held`` bytes now."""

    @property
    def since(self) -> float: ...
    @property
    def held(self) -> int: ...


_T = TypeVar("_T", bound=PendingFlow)


class PendingFlows(Generic[_T]):
    """The table of one transport. For one thread."""

    def __init__(self, *, most: int, most_held: int, longest: float) -> None:
        """At most so many at once, with so many bytes in all; a silent one is overdue after ``longest`` seconds."""
        self._most = most
        self._most_held = most_held
        self._longest = longest
        self._by_flow: dict[bytes, _T] = {}  # in the order in which they began
        self.held = 0
        """Bytes held for all of them."""

    def __len__(self) -> int:
        return len(self._by_flow)

    def get(self, flow: bytes) -> _T | None:
        """That of a flow, if there is one."""
        return self._by_flow.get(flow)

    def add(self, flow: bytes, opening: _T) -> None:
        """One begins now, of a flow that has none."""
        self._by_flow[flow] = opening
        self.held += opening.held

    def grew(self, opening: _T, before: int) -> None:
        """One of them holds another number of bytes than ``before``."""
        self.held += opening.held - before

    def pop(self, flow: bytes) -> _T | None:
        """It is over, if there is one."""
        opening = self._by_flow.pop(flow, None)
        if opening is not None:
            self.held -= opening.held
        return opening

    def surplus(self, flow: bytes) -> Iterator[bytes]:
        """Flows that must give way to ``flow``, which began, or holds more. Pop each before asking for the next."""
        while len(self._by_flow) > 1 and (len(self._by_flow) > self._most or self.held > self._most_held):
            yield next(other for other in self._by_flow if other != flow)

    def overdue(self, now: float) -> Iterator[bytes]:
        """Flows that have been silent for too long. Pop each before asking for the next."""
        while self._by_flow:
            flow, opening = next(iter(self._by_flow.items()))
            if now - opening.since <= self._longest:
                return
            yield flow
