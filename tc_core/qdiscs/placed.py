"""What the kinds of qdisc have in common."""

from __future__ import annotations

from dataclasses import dataclass

from tc_core.handles import Handle


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
