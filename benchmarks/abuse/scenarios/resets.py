"""A storm of resets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import LONG_PAGE, POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ASIDE, BACK, ERRORS, LEFT, RELAY, Promise, Scenario, Size

_RATE: Final = 1000


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    with course(arena, size, datapath) as going:
        with arena.stranger(
            "resets",
            host=POLICY.target.host, path=LONG_PAGE, rate=max(100, size.of(_RATE)), seconds=size.seconds + 2,
        ) as storm:  # fmt: skip
            honest, _ = going.honest()
            told = storm.end()
        return {"asked": float(told["opened"]), **honest, **going.afterwards()}


SCENARIO: Final = Scenario(
    "resets",
    "A storm of resets",
    f"Up to {_RATE:,} connections a second that are reset: at once, after a part of a head, after a request, and in "
    "the middle of a long answer.",
    _run,
    (
        Promise("error_share", ERRORS),
        Promise("back", BACK),
        Promise("descriptors_left", LEFT),
        Promise("after_error_share", ERRORS),
    ),
    (RELAY, ASIDE),
)
