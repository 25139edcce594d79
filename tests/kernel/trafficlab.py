"""How much of a TCP connection's payload should arrive at a rate, and whether it does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from tclab import Stream

from traffic_policy.units import Rate

_T = TypeVar("_T")

SECONDS = 5.0
SETTLE = 1.0
"""Seconds before a measurement, in which slow start ends and the first burst has passed."""
ATTEMPTS = 3
"""A machine that is busy with other work starves senders, which no shaper can mend. So what is sent too slowly is measured
again; what is sent too fast fails at once."""
ETHERNET, IPV4, TCP_WITH_TIMESTAMPS = 14, 20, 32


def payload(rate: str, stream: Stream) -> float:
    """Bits per second of payload that a rate carries in full packets of this connection."""
    frame = ETHERNET + IPV4 + TCP_WITH_TIMESTAMPS + stream.mss
    return Rate.parse(rate).bits_per_second * stream.mss / frame


def settles_at(stream: Stream, rate: str, seconds: float = SECONDS) -> None:
    """Fail unless the connection's payload gets within 5 % of what ``rate`` leaves for it."""
    expected = payload(rate, stream)
    for _ in range(ATTEMPTS):
        goodput = stream.goodput(seconds, after=SETTLE)
        assert goodput <= 1.05 * expected, rate
        if goodput >= 0.95 * expected:
            return
    pytest.fail(f"{rate} leaves {expected:.0f} bit/s for payload, but only {goodput:.0f} arrived")


def at_once(*measurements: Callable[[], _T]) -> list[_T]:
    """Run measurements at the same time."""
    with ThreadPoolExecutor(len(measurements)) as pool:
        return [future.result() for future in [pool.submit(m) for m in measurements]]
