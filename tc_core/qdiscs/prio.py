"""Strict priorities between a few bands."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.qdiscs.notation import attachment
from tc_core.qdiscs.placed import Placed

DEFAULT_PRIOMAP: Final = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
"""The band of each of the 16 packet priorities, as tc-prio(8) has it: interactive 0, best effort 1, bulk 2."""
_OPT: Final = struct.Struct("=i16B")
"""struct tc_prio_qopt: bands, priomap."""


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

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS."""
        return _OPT.pack(self.bands, *self.priomap)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> Prio:
        """The qdisc that TCA_OPTIONS describe."""
        bands, *priomap = _OPT.unpack_from(options)
        return cls(handle, parent, bands, tuple(priomap))
