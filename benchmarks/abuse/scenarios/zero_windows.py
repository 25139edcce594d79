"""Readers that do not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import LONG_PAGE, POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import BACK, ERRORS, LEFT, Promise, Scenario, Size

_COUNT: Final = 1000
_MOST_KIB: Final = 128.0
"""Of the proxy's memory, per connection: what it has read and the client does not take (64 KiB), and some."""


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    with course(arena, size, datapath) as going:
        with arena.stranger("zero_window", host=POLICY.target.host, path=LONG_PAGE, count=size.of(_COUNT)) as readers:
            held = float(readers.began["open"])
            honest, now = going.honest()
            memory = going.per_connection(held, now)
            left = readers.end()
        return {"held": held, "lost": held - float(left["left"]), **honest, **memory, **going.afterwards()}


SCENARIO: Final = Scenario(
    "zero-windows",
    "Readers that do not read",
    f"{_COUNT:,} clients with the smallest receive buffer ask for 64 MiB and read nothing, so that their windows are "
    "zero. The proxy stops reading the server's answers; what was under way is kept.",
    _run,
    (
        Promise("lost", 0),
        Promise("error_share", ERRORS),
        Promise("user_kib", _MOST_KIB),
        Promise("back", BACK),
        Promise("descriptors_left", LEFT),
        Promise("after_error_share", ERRORS),
    ),
)
