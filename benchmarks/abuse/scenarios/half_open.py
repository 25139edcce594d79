"""Connections that are begun and never made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import NOWHERE, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ASIDE, ERRORS, RELAY, Promise, Scenario, Size

_RATE: Final = 2000


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    with course(arena, size, datapath) as going:
        with arena.stranger("half_open", network=NOWHERE, rate=size.of(_RATE), seconds=size.seconds + 2) as flood:
            honest, now = going.honest()
            told = flood.end()
        return {"asked": float(told["sent"]), **honest, "growth_mib": going.growth_mib(now), **going.afterwards()}


SCENARIO: Final = Scenario(
    "half-open",
    "Connections that are begun and never made",
    f"{_RATE:,} SYNs a second from addresses that nobody has. The kernel answers them by itself (SYN cookies); others "
    "are served as ever.",
    _run,
    (Promise("error_share", ERRORS), Promise("growth_mib", 8.0), Promise("after_error_share", ERRORS)),
    (RELAY, ASIDE),
)
