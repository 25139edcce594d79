"""The units of qdiscs in netlink messages (linux/pkt_sched.h, net/sched/sch_htb.c and its neighbours).

Rates are bytes per second, in 32 bits with a 64-bit attribute next to them from 4 GB/s on; bursts are the time that
they take at their rate, in ticks of 64 ns; probabilities are parts of 2^32 - 1.
"""

from __future__ import annotations

from typing import Final

from traffic_policy.units import ByteCount, Duration, Rate

U32: Final = (1 << 32) - 1
TICK_NS: Final = 64
"""Nanoseconds of a scheduler tick: PSCHED_SHIFT is 6 (include/net/pkt_sched.h), as /proc/net/psched tells."""
ETHERNET: Final = 1
"""TC_LINKLAYER_ETHERNET: naming it makes the kernel compute its rates itself, without tables from user space."""
RATE_SPEC: Final = "BBHhHI"
"""struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate."""
_MILLION: Final = 10**6


def rate_spec(bytes_per_second: int) -> tuple[int, ...]:
    """The fields of a struct tc_ratespec; 32 bits of the rate."""
    return (0, ETHERNET, 0, 0, 0, min(bytes_per_second, U32))


def burst_ticks(rate: Rate, burst: ByteCount) -> int:
    """The time that ``burst`` takes at ``rate``, in ticks, rounded down as tc(8) does. Without rate it is 0."""
    if not rate.bytes_per_second:
        return 0
    return min(U32, burst.count * 10**9 // (rate.bytes_per_second * TICK_NS))


def burst_bytes(rate: Rate, ticks: int) -> ByteCount:
    """The inverse of :func:`burst_ticks`, rounded up: what was written is read back where a tick is at most a byte."""
    return ByteCount(-(-ticks * TICK_NS * rate.bytes_per_second // 10**9))


def ticks(time: Duration) -> int:
    """A time in ticks, rounded down; what does not fit into 32 bits is cut."""
    return min(U32, time.nanoseconds // TICK_NS)


def chance(ppm: int) -> int:
    """A probability of this many parts per million as the kernel has it, rounded to the nearest."""
    return (ppm * U32 + _MILLION // 2) // _MILLION


def chance_ppm(value: int) -> int:
    """The inverse of :func:`chance`: exact for what it made, and the nearest for what others made."""
    return (value * _MILLION + U32 // 2) // U32
