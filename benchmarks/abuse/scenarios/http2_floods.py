"""Floods of HTTP/2 frames, while every request is followed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from benchmarks.abuse.arena import POLICY, Arena
from benchmarks.abuse.course import course
from benchmarks.abuse.figures import ERRORS, Promise, Scenario, Size
from benchmarks.stage import HTTP2_PORT, PAGE
from traffic_policy.policy import Requests

_CONNECTIONS: Final = 10
_MOST_MIB: Final = 32.0
_KINDS: Final = {
    "rapid-reset": "requests that are cancelled at once (CVE-2023-44487)",
    "continuation": "a field block that never ends (CVE-2024-27316)",
    "settings": "SETTINGS frames (CVE-2019-9515)",
    "ping": "PING frames (CVE-2019-9512)",
    "hpack-bomb": "fields of 60 KB in 20 bytes (CVE-2016-6581)",
    "empty-data": "empty DATA frames (CVE-2019-9518)",
}
_CERTAIN: Final = frozenset({"continuation", "settings", "empty-data"})
"""Floods that are seen as such on any machine. Whether a thousand requests of a connection are cancelled in a second is
also a question of how fast all of them are read; a bomb is no flood, but large requests."""


def _run(kind: str, arena: Arena, size: Size, datapath: str) -> Mapping[str, float]:
    with course(arena, size, datapath, requests=Requests.FOLLOW) as going:
        with arena.stranger(
            "http2",
            port=HTTP2_PORT,
            host=POLICY.target.host,
            path=PAGE,
            kind=kind,
            connections=_CONNECTIONS,
            seconds=size.seconds + 2,
        ) as flood:
            honest, now = going.honest()
            told = flood.end()
        given_up = going.sidecar.metric("podlane_requests_ambiguous_total")
        return {
            "asked": float(told["opened"]),
            "given_up": given_up,
            **honest,
            "growth_mib": going.growth_mib(now),
            **going.afterwards(),
        }


SCENARIOS: Final = tuple(
    Scenario(
        f"http2-{kind}",
        f"HTTP/2: {what}",
        f"`requests: follow`, and {_CONNECTIONS} connections that send nothing but that, as fast as they can, and come "
        "again when they are cut.",
        partial(_run, kind),
        (
            Promise("error_share", ERRORS),
            Promise("growth_mib", _MOST_MIB),
            Promise("after_error_share", ERRORS),
            *((Promise("given_up", 1, at_least=True),) if kind in _CERTAIN else ()),
        ),
    )
    for kind, what in _KINDS.items()
)
