"""Thousands of connections that do next to nothing."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ASIDE, BACK, ERRORS, LEFT, MOST_KIB, RELAY, Promise, Scenario, Size
from benchmarks.stage import PAGE
from sidecar.proxy.server import fitting_connections

_IDLE, _SLOW, _PERIOD_S = 5000, 5000, 10
_PLACES: Final = 20_000


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    idle, slow = size.of(_IDLE), size.of(_SLOW)
    with course(arena, size, datapath, *_options(datapath, idle + slow)) as going:
        with arena.stranger(
            "crowd", host=POLICY.target.host, path=PAGE, idle=idle, slow=slow, period=_PERIOD_S
        ) as crowd:
            held = float(crowd.began["idle"] + crowd.began["slow"])
            honest, _ = going.honest()
            memory = going.per_connection(held, going.sidecar.read())
            left = crowd.end()
        return {
            "held": held,
            "lost": idle + slow - float(left["idle"] + left["slow"]),
            **honest,
            **memory,
            **going.afterwards(),
        }


def _options(datapath: str, wanted: int) -> tuple[str, ...]:
    """Places for them all; where one process may not have so many descriptors, two processes."""
    if datapath == ASIDE:
        return ()
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = fitting_connections(_PLACES, limit if limit != resource.RLIM_INFINITY else 1 << 30)
    workers = ("--workers", "2") if room < wanted * 1.2 else ()
    return ("--max-connections", str(_PLACES), *workers)


SCENARIO: Final = Scenario(
    "crowd",
    "Thousands of connections that do next to nothing",
    f"{_IDLE:,} clients make one request and keep silent, {_SLOW:,} send a head that never ends, a byte each "
    f"{_PERIOD_S} s. All are held (`--max-connections {_PLACES}`) while others ask.",
    _run,
    (
        Promise("lost", 0),
        Promise("error_share", ERRORS),
        Promise("both_kib", MOST_KIB),
        Promise("back", BACK),
        Promise("descriptors_left", LEFT),
        Promise("after_error_share", ERRORS),
    ),
    (RELAY, ASIDE),
)
