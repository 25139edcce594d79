"""Numbers and places in the words of tc(8), and how exact its numbers are."""

from __future__ import annotations

from decimal import Decimal

from tc_core.handles import ROOT, Handle
from traffic_policy.units import ByteCount, Duration, Rate


def tc_rate(rate: Rate) -> str:
    """A rate for tc(8), with a prefix only where no fraction is left: tc reads fractions as inexact doubles."""
    for suffix, factor in (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
        if rate.bits_per_second and rate.bits_per_second % factor == 0:
            return f"{rate.bits_per_second // factor}{suffix}"
    return f"{rate.bits_per_second}bit"


def tc_time(duration: Duration) -> str:
    """A time for tc(8), in the largest unit that leaves no fraction; not all releases know nanoseconds."""
    for suffix, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if duration.nanoseconds % factor == 0:
            return f"{duration.nanoseconds // factor}{suffix}"
    return f"{Decimal(duration.nanoseconds) / 1000}us"


def tc_percent(ppm: int) -> str:
    """Parts per million as a percentage for tc(8): ``0.01%``."""
    return f"{(Decimal(ppm) / 10_000).normalize():f}%"


def attachment(parent: Handle, handle: Handle) -> str:
    """Where a qdisc is, in the words of tc(8)."""
    where = "root" if parent == ROOT else f"parent {parent}"
    return f"{where} handle {handle}"


def same_burst(rate: Rate, one: ByteCount, other: ByteCount) -> bool:
    """Equal up to what passes in one microsecond, the coarsest step of any tool that writes bursts."""
    return abs(one.count - other.count) <= 1 + rate.bytes_per_second // 1_000_000
