"""Plays the story on the stage: starts and ends transfers on time, reads the counters, keeps the view up to date."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from podlane.demo.recording import SAMPLE_SECONDS, Recording
from podlane.demo.scenario import Span
from podlane.demo.topology import Stage
from podlane.demo.view import View

_EXACT_SECONDS: Final = 0.005
"""A reading that took longer was interrupted by other work of the machine, and is made again."""
_MOST_READINGS: Final = 5


@dataclass
class Show:
    """One performance. Times are seconds from its start, on the monotonic clock."""

    stage: Stage
    view: View
    recording: Recording = field(init=False)
    _clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self.recording = Recording(self.stage.scenario)
        self._started = self._clock()

    def play(self) -> Recording:
        """From the first phase to the end of the last. Raises :class:`DemoError` as soon as something breaks."""
        self._started = self._clock()
        self._sample()
        for span in self.stage.scenario.spans:
            self._begin(span)
            while self._now() < span.end:
                self._wait_for_tick(span.end)
                self._sample()
                self.stage.check()
                self.view.show(self.recording, span)
        return self.recording

    def _begin(self, span: Span) -> None:
        phase = span.phase
        if phase.join is not None:
            self.stage.start_lane(self.stage.scenario.lane(phase.join))
        if phase.end is not None:
            self.stage.end_lane(phase.end)
        if phase.change_limits:
            self.stage.change_limits()
            self.recording.changed_at = self._now()
        self.view.announce(self._now(), phase.title)

    def _now(self) -> float:
        return self._clock() - self._started

    def _wait_for_tick(self, end: float) -> None:
        """Until the next reading is due: readings keep to the clock, however long each takes."""
        now = self._now()
        due = min((now // SAMPLE_SECONDS + 1) * SAMPLE_SECONDS, end)
        time.sleep(max(0.0, due - now))

    def _sample(self) -> None:
        readings = []
        for _ in range(_MOST_READINGS):
            before = self._now()
            sent = self.stage.sent()
            after = self._now()
            readings.append((after - before, (before + after) / 2, sent))
            if after - before <= _EXACT_SECONDS:
                break
        # The kernel was asked somewhere between the two: the shorter that is, the better is the time known.
        _, time_of_it, sent = min(readings, key=itemgetter(0))
        self.recording.add(time_of_it, sent)
