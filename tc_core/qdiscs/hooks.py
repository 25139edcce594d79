"""Places for filters that see every packet of an interface, in the form of qdiscs that queue nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.qdiscs.placed import Placed

INGRESS: Final = Handle(0xFFFF, 0xFFF1)
"""TC_H_INGRESS and TC_H_CLSACT: where ``clsact`` and ``ingress`` are attached."""
INGRESS_HANDLE: Final = Handle(0xFFFF)
"""The only handle that either of them can have."""
INGRESS_HOOK: Final = Handle(0xFFFF, 0xFFF2)
"""TC_H_MIN_INGRESS: the parent of filters that see what arrives, below either of the two."""
EGRESS_HOOK: Final = Handle(0xFFFF, 0xFFF3)
"""TC_H_MIN_EGRESS: the parent of filters that see what leaves, before any queue, below ``clsact`` alone."""
PROGRAM_PRIO: Final = 0xC0DE
"""Priority of a filter that is a program of ``datapath: ebpf``, which nobody else is likely to choose."""
PROGRAM_PRIO_ARRIVING: Final = 0xC0D
"""The same at :data:`INGRESS_HOOK`: before the redirection of limits for received traffic, which takes packets away."""


@dataclass(frozen=True, slots=True)
class Clsact(Placed):
    """No queue, but places for filters: what arrives (:data:`INGRESS_HOOK`) and what leaves (:data:`EGRESS_HOOK`)."""

    handle: Handle = INGRESS_HANDLE
    parent: Handle = INGRESS
    kind: str = field(default="clsact", init=False)

    def __str__(self) -> str:
        return "clsact"

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """There are none."""
        return b""


@dataclass(frozen=True, slots=True)
class IngressQdisc(Placed):
    """The older form of :class:`Clsact`, with only the place for what arrives. We use it, but never make it."""

    handle: Handle = INGRESS_HANDLE
    parent: Handle = INGRESS
    kind: str = field(default="ingress", init=False)

    def __str__(self) -> str:
        return "ingress"
