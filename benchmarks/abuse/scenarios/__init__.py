"""All scenarios, in the order in which they are run."""

from __future__ import annotations

from typing import Final

from benchmarks.abuse.figures import Scenario
from benchmarks.abuse.scenarios import (
    crowd,
    descriptors,
    detection,
    half_open,
    http2_floods,
    injector,
    places,
    resets,
    soak,
    zero_windows,
)

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        crowd.SCENARIO,
        places.SCENARIO,
        descriptors.SCENARIO,
        detection.SCENARIO,
        half_open.SCENARIO,
        resets.SCENARIO,
        zero_windows.SCENARIO,
        *http2_floods.SCENARIOS,
        soak.SCENARIO,
        *injector.SCENARIOS,
    )
}
