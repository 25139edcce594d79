"""More connections than there are places for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.abuse.arena import POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ERRORS, LEFT, Promise, Scenario, Size
from benchmarks.stage import PAGE

_PLACES: Final = 1000
_LEAST: Final = 100


def _run(arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    places = max(_LEAST, size.of(_PLACES))
    with course(arena, size, datapath, "--max-connections", str(places)) as going:
        with arena.stranger("crowd", host=POLICY.target.host, path=PAGE, idle=places, slow=0, period=10) as crowd:
            held = float(crowd.began["idle"])
            honest, _ = going.honest()
            left = crowd.end()
        return {"held": held, "lost": held - float(left["idle"]), **honest, **going.afterwards()}


SCENARIO: Final = Scenario(
    "places",
    "All places taken by clients that keep silent",
    f"`--max-connections {_PLACES}`, and as many clients that make one request and keep silent. Others come, and must "
    "not wait for the idle timeout: who is quiet for longest makes room. The first ones wait for some seconds.",
    _run,
    (Promise("error_share", ERRORS), Promise("after_error_share", ERRORS), Promise("descriptors_left", LEFT)),
)
