"""Plays a part: starts and ends transfers on time, reads the counters, updates the view."""

from __future__ import annotations

import time
from operator import itemgetter
from typing import Final

from podlane.demo.agent_topology import AgentTopology
from podlane.demo.recording import SAMPLE_SECONDS, Recording
from podlane.demo.topology import DemoTopology
from podlane.demo.view import DemoView

_EXACT_SECONDS: Final = 0.005
"""A reading that took longer was interrupted by other work of the machine, and is made again."""
_MOST_READINGS: Final = 5


def play(topology: DemoTopology | AgentTopology, view: DemoView) -> Recording:
    """From the first phase to the end of the last. Raises :class:`DemoError` as soon as something breaks."""
    scenario = topology.scenario
    recording = Recording(scenario)
    started = time.monotonic()
    _sample(recording, topology, started)
    for span in scenario.spans:
        phase = span.phase
        if phase.join is not None:
            topology.start_lane(scenario.lane(phase.join))
        if phase.end is not None:
            topology.transfers[phase.end].end()
        if phase.change_limits:
            topology.change_limits()
            recording.changed_at = time.monotonic() - started
        view.announce(time.monotonic() - started, phase.title)
        while (now := time.monotonic() - started) < span.end:
            # Readings keep to the clock, however long each takes.
            due = min((now // SAMPLE_SECONDS + 1) * SAMPLE_SECONDS, span.end)
            time.sleep(due - now)
            _sample(recording, topology, started)
            topology.check()
            view.show(recording, span)
    return recording


def _sample(recording: Recording, topology: DemoTopology | AgentTopology, started: float) -> None:
    readings = []
    for _ in range(_MOST_READINGS):
        before = time.monotonic()
        sent = topology.sent()
        after = time.monotonic()
        readings.append((after - before, (before + after) / 2 - started, sent))
        if after - before <= _EXACT_SECONDS:
            break
    # The kernel was asked somewhere between the two: the shorter that is, the better is the time known.
    _, at, sent = min(readings, key=itemgetter(0))
    recording.add(at, sent)
