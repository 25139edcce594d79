"""How the Pods of a node share a budget: who gets how much of it. Pure; all figures are bits per second.

Max-min fair, by water-filling (Bertsekas and Gallager, Data Networks, 6.5.2): all get the same, but nobody more than it
wants, and nobody less than what it wants of its own guarantees. What nobody wants is lent in the same way, so that a
burst finds room. A Pod that sends nothing keeps a small part, with which it can begin; what is guaranteed to it, it
gets back when it wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_BEGINNING: Final = 64
"""Of this many parts of the budget one is kept for who sends nothing ..."""
_BEGINNING_OF_ALL: Final = 16
"""... but all of them together have no more than one of so many."""
_MOVES: Final = 50
"""A share stays as it is until it would change by one of so many parts of it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one Pod wants now, what is guaranteed to it when it wants that much, and the most that it may have."""

    demand: int
    floor: int
    ceil: int


def beginning(budget: int, pods: int = 1) -> int:
    """What one of so many Pods keeps while it sends nothing."""
    return max(1, min(budget // _BEGINNING, budget // (_BEGINNING_OF_ALL * max(1, pods))))


def share_out(budget: int, claims: Sequence[Claim]) -> tuple[int, ...]:
    """The share of each; all of them together are never more than the budget.

    Guarantees that are wanted and do not fit into the budget are lowered in proportion.
    """
    first = beginning(budget, len(claims))
    wanted = [min(each.ceil, max(each.demand, first)) for each in claims]
    least = [min(want, max(each.floor, first)) for each, want in zip(claims, wanted, strict=True)]
    if (promised := sum(least)) > budget:
        return tuple(each * budget // promised for each in least)
    served = _filled(budget, least, wanted)
    return _filled(budget, served, [each.ceil for each in claims])


def _filled(budget: int, least: Sequence[int], most: Sequence[int]) -> tuple[int, ...]:
    """The same for all, between the least and the most of each. ``least`` fits into the budget."""
    level = _level(budget, least, most)
    return tuple(max(low, min(high, level)) for low, high in zip(least, most, strict=True))


def _level(budget: int, least: Sequence[int], most: Sequence[int]) -> int:
    """To which all are filled, rounded down."""
    filled, level, rising = sum(least), 0, 0
    turns = [(low, 1) for low in least] + [(high, -1) for high in most]
    for at, change in sorted(turns):
        if filled + rising * (at - level) > budget:
            return level + (budget - filled) // rising
        filled += rising * (at - level)
        level, rising = at, rising + change
    return level


def settled(budget: int, present: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """The wanted shares, but the present ones where they differ little, so that little differences move nothing.

    Never more together than the budget, if ``wanted`` is not.
    """
    kept = [
        now if abs(now - then) * _MOVES <= now else then
        for now, then in zip(present, wanted, strict=True)
    ]  # fmt: skip
    if sum(kept) > budget:
        kept = [min(now, then) for now, then in zip(kept, wanted, strict=True)]
    return tuple(kept)
