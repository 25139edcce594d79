"""Qdiscs with classes: HTB's tree of them, a token bucket with one, strict priority between a few."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import ROOT, Handle
from tc_core.qdiscs.notation import attachment, same_burst, tc_rate
from tc_core.qdiscs.placed import Placed
from traffic_policy.units import ByteCount, Rate

DEFAULT_R2Q: Final = 10
"""HTB's rate-to-quantum divisor (tc-htb(8)), used only by classes without a quantum of their own; ours all have one."""
DEFAULT_PRIOMAP: Final = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
"""The band of each of the 16 packet priorities, as tc-prio(8) has it: interactive 0, best effort 1, bulk 2."""


@dataclass(frozen=True, slots=True)
class HtbQdisc:
    """An HTB root. ``default_minor`` names the class of unclassified packets, ``direct_qlen`` is in packets.

    ``r2q`` has no effect on classes with an explicit quantum, and all of ours have one. :mod:`tc_core.diff` keeps the
    interface's previous ``gso_max_size`` in it, so that removal can restore it even after a restart: the kernel keeps
    the number exactly as long as the tree that made the change.
    """

    handle: Handle
    default_minor: int
    r2q: int = DEFAULT_R2Q
    direct_qlen: int = 1000
    parent: Handle = ROOT
    kind: str = field(default="htb", init=False)

    def agrees_with(self, other: object) -> bool:
        """HTB cannot be altered once it is there, and r2q and direct_qlen mean nothing to a complete tree of ours."""
        return (
            isinstance(other, HtbQdisc)
            and (self.handle, self.parent) == (other.handle, other.parent)
            and self.default_minor == other.default_minor
        )

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: HTB has no change operation."""
        return False

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} htb default {self.default_minor:x} r2q {self.r2q} "
            f"direct_qlen {self.direct_qlen}"
        )


@dataclass(frozen=True, slots=True)
class Tbf(Placed):
    """A token bucket (tc-tbf(8)): at most ``rate`` in the mean, ``burst`` bytes at once, ``limit`` bytes waiting.

    It has one class, ``HANDLE:1``, with a FIFO of ``limit`` bytes until another qdisc takes that place.
    """

    rate: Rate
    burst: ByteCount
    limit: ByteCount
    kind: str = field(default="tbf", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return (
            isinstance(other, Tbf)
            and (self.place, self.limit) == (other.place, other.limit)
            and self.rate.bytes_per_second == other.rate.bytes_per_second
            and same_burst(self.rate, self.burst, other.burst)
        )

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} tbf rate {tc_rate(self.rate)} burst {self.burst.count}b "
            f"limit {self.limit.count}b"
        )


@dataclass(frozen=True, slots=True)
class Prio(Placed):
    """Strict priorities (tc-prio(8)): band 0 first, the next only while it is empty.

    ``bands`` (2 to 16) are the classes ``HANDLE:1`` to ``HANDLE:bands``, each with a FIFO of its own until another
    qdisc takes that place; ``priomap`` has the band of each of the 16 packet priorities that no filter overrules.
    Bands that a change takes away lose what they have queued.
    """

    bands: int = 3
    priomap: tuple[int, ...] = DEFAULT_PRIOMAP
    kind: str = field(default="prio", init=False)

    def __str__(self) -> str:
        bands = " ".join(str(band) for band in self.priomap)
        return f"{attachment(self.parent, self.handle)} prio bands {self.bands} priomap {bands}"
