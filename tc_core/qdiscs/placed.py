"""What the kinds of qdisc have in common, and those that are none of ours."""

from __future__ import annotations

from dataclasses import dataclass

from tc_core.handles import Handle
from tc_core.qdiscs.notation import attachment


@dataclass(frozen=True, slots=True)
class Placed:
    """A qdisc in its place: its own handle, and what it is attached to. Kinds overrule what is less simple for them."""

    handle: Handle
    parent: Handle

    @property
    def place(self) -> tuple[Handle, Handle]:
        """The handle, and the parent."""
        return self.handle, self.parent

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return self == other

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue: most kinds, with any numbers."""
        return isinstance(other, Placed) and type(other) is type(self) and self.place == other.place


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
