"""What a supervisor decides, by the times it is told: how long silence may last, when to start again. Pure.

Times are seconds of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.supervisor.heartbeat import CLASSIFIER, LOOP, WORKERS

SILENT_S: Final = {LOOP: 0.6, CLASSIFIER: 0.6, WORKERS: 3.0}
"""After so long without a sign new connections do without the proxy. Together with the next look and the 20 ms that
iptables takes this is less than a second. Workers are asked once per second, and given another to answer."""
HUNG_S: Final = {LOOP: 5.0, CLASSIFIER: 5.0}
"""After so long it is killed: its connections stand still all the while, but a machine that is short of CPU time, or a
small CPU limit, must not cost them. Workers are the proxy's to kill."""
START_S: Final = 120.0
"""A start that takes longer will not end: the startup probe gives as much."""
_LATE_S: Final = 0.3
"""Who wakes so much later than planned was stopped itself (SIGSTOP, a frozen cgroup), and no judge of others."""
_FIRST_PAUSE_S: Final = 0.1
"""A few deaths in a row cost no more than a second together; then it is a failure that repeats itself."""
_LONGEST_PAUSE_S: Final = 30.0
_CALM_S: Final = 60.0
"""Who has been ready for so long had not failed to start."""


class Liveness(NamedTuple):
    """``silent``: new connections should do without it; ``hung``: kill it; ``look_at``: when to look next."""

    silent: bool
    hung: bool
    look_at: float


class Watchdog:
    """Watches the signs of one proxy.

    What counts is the time in which it could have given them. Who stands in the queue for a CPU does not hang: on a
    machine with ten times more work than CPUs silence of a second is nothing unusual.
    """

    def __init__(self) -> None:
        self._planned: float | None = None
        self._seen: dict[int, tuple[float, float]] = {}

    def check(self, now: float, last: Sequence[float], queued: float = 0.0) -> Liveness:
        """``last``: when each kind of sign was given, 0 for those that never were.

        ``queued``: how long the thread that gives them has been ready to run and did not, in all.
        """
        late = self._planned is not None and now > self._planned + _LATE_S
        ages = {}
        for kind, at in enumerate(last):
            if at:
                if self._seen.get(kind, (0.0, 0.0))[0] != at:
                    self._seen[kind] = at, queued
                ages[kind] = now - at - max(0.0, queued - self._seen[kind][1])
        silent = not late and any(age >= SILENT_S[kind] for kind, age in ages.items())
        hung = not late and any(age >= limit for kind, limit in HUNG_S.items() if (age := ages.get(kind, 0.0)))
        waits = [SILENT_S[kind] - age for kind, age in ages.items()]
        # While it is silent: look often, so that capture comes back soon after it speaks again.
        wait = min(waits, default=SILENT_S[LOOP])
        self._planned = now + (0.1 if wait <= 0 else wait)
        return Liveness(silent, hung, self._planned)


class Restarts:
    """When to start a proxy again: at once, and then with pauses that double, until it has been well for a minute."""

    def __init__(self) -> None:
        self._pause = 0.0
        self.counts: dict[str, int] = {}

    def pause_after(self, reason: str, ready_for: float | None) -> float:
        """Seconds to wait. ``ready_for``: how long it had been ready; None: it never was."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if ready_for is not None and ready_for >= _CALM_S:
            self._pause = 0.0
        pause = self._pause
        self._pause = min(max(_FIRST_PAUSE_S, 2 * pause), _LONGEST_PAUSE_S)
        return pause
