"""First in, first out, limited in bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.qdiscs.notation import attachment
from tc_core.qdiscs.placed import Placed
from traffic_policy.units import ByteCount

_OPT: Final = struct.Struct("=I")
"""struct tc_fifo_qopt: limit."""


@dataclass(frozen=True, slots=True)
class Bfifo(Placed):
    """A leaf that queues at most ``limit`` bytes, first in first out (tc-bfifo(8))."""

    limit: ByteCount
    kind: str = field(default="bfifo", init=False)

    def __str__(self) -> str:
        return f"{attachment(self.parent, self.handle)} bfifo limit {self.limit.count}b"

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS."""
        return _OPT.pack(self.limit.count)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> Bfifo:
        """The qdisc that TCA_OPTIONS describe."""
        return cls(handle, parent, ByteCount(*_OPT.unpack_from(options)))
