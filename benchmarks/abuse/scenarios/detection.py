"""Beginnings without end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import GIVES_BACK_S, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ASIDE, BACK, ERRORS, RELAY, Promise, Scenario, Size

_AT_ONCE, _BYTES = 2000, 60_000
_MOST_MIB: Final = 64.0
_GIVES_BACK_S: Final = {RELAY: GIVES_BACK_S, ASIDE: 45.0}
"""Stepping aside, no end of a connection is seen: one that says nothing more is given up after half a minute."""


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    with course(arena, size, datapath) as going:
        growth = going.sidecar.growth()
        with arena.stranger("hello", at_once=size.of(_AT_ONCE), size=_BYTES, seconds=size.seconds + 2) as flood:
            honest, _ = going.honest()
            growth_mib = growth.mib()
            told = flood.end()
        return {
            "asked": float(told["opened"]),
            **honest,
            "growth_mib": growth_mib,
            **going.afterwards(rest=_GIVES_BACK_S[datapath]),
        }


SCENARIO: Final = Scenario(
    "detection",
    "Beginnings without end",
    f"{_AT_ONCE:,} connections at once that each send the first {_BYTES:,} bytes of a ClientHello of 63 KiB, keep "
    "silent for 2 s, and come again. What all of them together may make the proxy keep is bounded.",
    _run,
    (
        Promise("error_share", ERRORS),
        Promise("growth_mib", _MOST_MIB),
        Promise("back", BACK),
        Promise("after_error_share", ERRORS),
    ),
    (RELAY, ASIDE),
)
