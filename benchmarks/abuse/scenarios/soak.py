"""Everything for a long time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import LONG_PAGE, NOWHERE, POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ERRORS, LEFT, Promise, Scenario, Size, honest_figures
from benchmarks.abuse.readings import Reading
from benchmarks.stage import HTTP2_PORT, PAGE
from traffic_policy.policy import Requests

_TURN_S: Final = 6.0
"""Seconds of abuse in a turn, at whose end all that came leaves ..."""
_SHORT_TURN_S: Final = 2.0
_LONG_S: Final = 60.0
"""... but less where the whole is shorter than this: there are two turns at least."""
_CROWD: Final = 500
_GROWTH: Final = 1.05


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    """Turns of everything, and a reading after each."""
    readings: list[Reading] = []
    asked = failed = 0.0
    longest = 0.0
    end = time.monotonic() + size.seconds
    with course(arena, size, datapath, requests=Requests.FOLLOW) as going:
        while len(readings) < 2 or time.monotonic() < end:
            told = _turn(arena, size, _TURN_S if size.seconds >= _LONG_S else _SHORT_TURN_S)
            asked += told["honest"]
            failed += told["error_share"] * told["honest"]
            longest = max(longest, told.get("max_ms", 0.0))
            readings.append(going.sidecar.settle())
        quarter = readings[len(readings) // 4]
        return {
            "honest": asked,
            "error_share": failed / asked,
            "max_ms": longest,
            "turns": float(len(readings)),
            "given_up": going.sidecar.metric("podlane_requests_ambiguous_total"),
            "quarter_mib": quarter.resident_kib / 1024,
            "end_mib": readings[-1].resident_kib / 1024,
            "memory_growth": readings[-1].resident_kib / quarter.resident_kib,
            **going.afterwards(),
        }


def _turn(arena: Arena, size: Size, seconds: float) -> Mapping[str, float]:
    host = POLICY.target.host
    with (
        arena.stranger("crowd", host=host, path=PAGE, idle=size.of(_CROWD), slow=size.of(_CROWD), period=2) as crowd,
        arena.stranger("resets", host=host, path=LONG_PAGE, rate=50, seconds=seconds) as storm,
        arena.stranger("half_open", network=NOWHERE, rate=200, seconds=seconds) as syns,
        arena.stranger("zero_window", host=host, path=LONG_PAGE, count=20) as readers,
        arena.stranger("hello", at_once=20, size=40_000, seconds=seconds) as hellos,
        arena.stranger(
            "http2", port=HTTP2_PORT, host=host, path=PAGE, kind="ping", connections=1, seconds=seconds / 2
        ) as pings,
    ):
        told = honest_figures(arena.honest(size.rate / 5, seconds))
        for client in (crowd, storm, syns, readers, hellos, pings):
            client.end()
    return told


SCENARIO: Final = Scenario(
    "soak",
    "Everything for a long time",
    "Turns of 6 s of a crowd, resets, half-open connections, readers that do not read, beginnings without end and "
    "PINGs, with a fifth of the honest requests; after each turn all of it leaves. `--seconds 3600` is an hour.",
    _run,
    (
        Promise("error_share", ERRORS),
        Promise("memory_growth", _GROWTH),
        Promise("descriptors_left", LEFT),
        Promise("after_error_share", ERRORS),
    ),
)
