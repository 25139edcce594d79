"""What a Pod wants of a budget, as its counters tell. Pure; figures are bits per second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tc_core.stats import ClassStats, grown

_FULL: Final = 0.9
"""Who uses so much of its share, and was held up by it, wants more; how much more is not to be seen."""
_HEADROOM: Final = 1.25
"""Others want what they use, and so much more. With less than 1 / _FULL, who is held up by its own classes would seem
to want more, and then not use it: its share would swing."""
_FADES: Final = 1 / 3
"""Of what a Pod has wanted so much counts in the next turn: who pauses for a moment does not begin anew, and who stops
has given nearly all of it away after three. With a half, bursts of a second leave 3 % of a budget more unused."""


@dataclass(frozen=True, slots=True)
class SeenUse:
    """The counters of a Pod's total at a time in seconds. ``backlog_packets`` of the counters are those of its
    classes."""

    at: float
    counters: ClassStats


def demand(before: SeenUse, now: SeenUse, *, share: int, ceil: int, earlier: int) -> int:
    """What a Pod wants now. ``share`` is what it had between the two readings, ``ceil`` the most it may have,
    ``earlier`` what it wanted before."""
    seconds = now.at - before.at
    if seconds <= 0:
        return earlier
    then, counters = before.counters, now.counters
    used = grown(then.bytes, counters.bytes) * 8 / seconds
    held_up = counters.backlog_packets > 0 or counters.overlimits > then.overlimits
    if held_up and used >= _FULL * share:
        return ceil
    return min(ceil, int(max(used * _HEADROOM, min(earlier, share) * _FADES)))
