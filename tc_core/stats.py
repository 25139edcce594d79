"""Counters of classes, and the rates between two readings of them. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from traffic_policy.units import Rate

_K = TypeVar("_K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ClassStats:
    """Counters of an HTB class since it was made (struct gnet_stats_basic, gnet_stats_queue, tc_htb_xstats).

    ``bytes`` include link headers, as HTB counts them, and ``packets`` each segment of a GSO packet. ``drops`` are
    those of the class and of its queue, whichever has seen more: HTB counts what its leaf refuses, and a leaf such as
    fq_codel also drops what it had accepted. ``overlimits``: how often the class had to wait. ``lended``: packets sent
    at the class's own rate; ``borrowed``: with its parent's tokens. ``giants``: packets above HTB's size tables.
    """

    bytes: int = 0
    packets: int = 0
    drops: int = 0
    overlimits: int = 0
    requeues: int = 0
    backlog_bytes: int = 0
    backlog_packets: int = 0
    lended: int = 0
    borrowed: int = 0
    giants: int = 0


def grown(before: int, after: int) -> int:
    """The increase of a counter between two readings.

    Counters have 64 bits and do not wrap, so a decrease means that the class was recreated: then the whole count is
    new.
    """
    return after - before if after >= before else after


def rate_between(before: ClassStats, after: ClassStats, seconds: float) -> Rate:
    """The mean rate between two readings that are ``seconds`` apart."""
    if seconds <= 0:
        raise ValueError(f"two readings cannot be {seconds} seconds apart")
    return Rate(int(grown(before.bytes, after.bytes) * 8 / seconds))


def rates(before: Mapping[_K, ClassStats], after: Mapping[_K, ClassStats], seconds: float) -> dict[_K, Rate]:
    """The mean rate of every class in ``after``; a class that is new there counts from nothing."""
    nothing = ClassStats()
    return {handle: rate_between(before.get(handle, nothing), stats, seconds) for handle, stats in after.items()}


def with_leaf_drops(stats: ClassStats, leaf_drops: int) -> ClassStats:
    """The counters of a class together with the drops of its queue (see :class:`ClassStats`)."""
    if leaf_drops <= stats.drops:
        return stats
    return replace(stats, drops=leaf_drops)
