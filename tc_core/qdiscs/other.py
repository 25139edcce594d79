"""Qdiscs that are none of ours."""

from __future__ import annotations

from dataclasses import dataclass

from tc_core.qdiscs.notation import attachment
from tc_core.qdiscs.placed import Placed


@dataclass(frozen=True, slots=True)
class OtherQdisc(Placed):
    """A qdisc of a kind that we never make. A handle with major 0 marks one that the kernel chose by default."""

    kind: str

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: we do not know its options."""
        return False

    @property
    def is_default(self) -> bool:
        """Whether the kernel put it there by itself (``noqueue``, ``pfifo_fast``, ``mq`` ...)."""
        return self.handle.major == 0

    def __str__(self) -> str:
        return f"{attachment(self.parent, self.handle)} {self.kind}"
