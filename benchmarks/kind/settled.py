"""From what arrived when to the rate of a limit, and what passed before it held. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.errors import MeasurementError
from benchmarks.metrics.shaping import PAYLOAD_SHARE

SETTLE: Final = 3.0
"""Seconds after the first byte before the window begins: slow start, and a bucket that is full at first, are over."""
_MIB: Final = 1 << 20
_UNHELD: Final = 1.5
"""Times what a limit allows, beyond which nobody keeps it: token buckets do so to a few percent."""


@dataclass(frozen=True, slots=True)
class Held:
    """Goodput in Mbit/s, its share of what headers leave of the limit, and MiB that passed at first beyond it."""

    mbit_s: float
    share: float
    beyond_mib: float


def held(seen: Sequence[tuple[float, float]], mbit: int) -> Held:
    """``seen``: seconds since the first byte, bytes so far. Raises :class:`MeasurementError` when it is too short."""
    window = [(when, count) for when, count in seen if when >= SETTLE]
    if len(window) < 2:
        raise MeasurementError(f"there were {len(window)} looks at what arrived after {SETTLE:g} s")
    (began, before), (ended, after) = window[0], window[-1]
    goodput = (after - before) * 8 / (ended - began) / 1e6
    allowed = mbit * PAYLOAD_SHARE
    beyond = before - allowed * 1e6 / 8 * began
    return Held(goodput, goodput / allowed, max(0.0, beyond) / _MIB)


def plugin_held(found: Held, mbit: int) -> None:
    """Raises :class:`MeasurementError` when a limit of the bandwidth plugin is not kept: most likely it is not there.

    A CNI that does not chain it takes its annotations without a word, as kind's own does.
    """
    if found.share > _UNHELD:
        raise MeasurementError(
            f"the Pod that is to keep to {mbit} Mbit/s sends {found.mbit_s:.0f} after {SETTLE:g} s: this cluster's CNI "
            "does not chain the bandwidth plugin, and nothing that was measured of it counts (or the burst that the "
            "plugin allows first takes longer here)"
        )
