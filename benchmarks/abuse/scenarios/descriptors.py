"""No descriptors left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ERRORS, LEFT, Promise, Scenario, Size
from benchmarks.stage import PAGE

_LEFT: Final = 200
_CROWD: Final = 400
_BUSY: Final = 0.05
"""CPUs: retries ten times a second take far less, a busy loop takes one."""


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    """As many as there are descriptors for, and then nobody does anything."""
    with course(arena, size, datapath) as going:
        sidecar = going.sidecar
        with (
            sidecar.descriptors_limited(going.before.descriptors + _LEFT),
            arena.stranger("zero_window", host=POLICY.target.host, path=PAGE, count=_CROWD) as crowd,
        ):
            begun = sidecar.read()
            arena.pause(size.seconds)
            now = sidecar.read()
            figures = {"held": float(now.descriptors - going.before.descriptors) / 2, "cpu_share": now.share(begun)}
            figures["asked"] = float(crowd.began["open"])
            crowd.end()
        return {**figures, **going.afterwards()}


SCENARIO: Final = Scenario(
    "descriptors",
    "No descriptors left",
    f"A running proxy may have {_LEFT} more descriptors, and {_CROWD} clients come, which take twice as "
    "many. Nobody is turned away, nothing spins; when they have left, all is as before.",
    _run,
    (Promise("cpu_share", _BUSY), Promise("after_error_share", ERRORS), Promise("descriptors_left", LEFT)),
)
