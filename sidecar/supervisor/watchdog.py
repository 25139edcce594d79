"""The supervisor's decisions: how long heartbeats may be missing, and when to restart. Pure.

Times are seconds of the monotonic clock, passed by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.supervisor.heartbeat import CLASSIFIER, LOOP, WORKERS

SILENT_S: Final = {LOOP: 0.6, CLASSIFIER: 0.6, WORKERS: 3.0}
"""Seconds without a heartbeat after which the fallback is run. Together with the check interval and the run time of
iptables this is less than a second. Workers are queried once per second, and have another to answer."""
HUNG_S: Final = {LOOP: 5.0, CLASSIFIER: 5.0}
"""Seconds after which the proxy is killed. Its connections stall all the while, but a machine that is short of CPU
time, or a small CPU limit, must not end them. Workers are killed by the proxy."""
START_S: Final = 120.0
"""A start that takes longer will not complete: the startup probe allows as much."""
_LATE_S: Final = 0.3
"""If the supervisor wakes so much later than planned, it was stopped itself (SIGSTOP, a frozen cgroup) and must not
judge."""
_FIRST_PAUSE_S: Final = 0.1
"""A few restarts in a row take no more than a second together; after that it is a repeating failure."""
_LONGEST_PAUSE_S: Final = 30.0
_CALM_S: Final = 60.0
"""Seconds after which a start counts as successful."""


class Liveness(NamedTuple):
    """``silent``: run the fallback; ``hung``: kill it; ``look_at``: time of the next check."""

    silent: bool
    hung: bool
    look_at: float


class Watchdog:
    """Watches the heartbeats of one proxy.

    Only the time in which it could have given them counts: a process that waits for a CPU does not hang, and on an
    overloaded machine a second without a heartbeat is not unusual.
    """

    def __init__(self) -> None:
        self._planned: float | None = None
        self._seen: dict[int, tuple[float, float]] = {}

    def check(self, now: float, last: Sequence[float], queued: float = 0.0) -> Liveness:
        """``last``: when each kind of heartbeat was given, 0 for those that never were.

        ``queued``: total time that the thread giving them was runnable but not running.
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
        # While heartbeats are missing, check often, so that capture is restored soon after they resume.
        wait = min(waits, default=SILENT_S[LOOP])
        self._planned = now + (0.1 if wait <= 0 else wait)
        return Liveness(silent, hung, self._planned)


class Restarts:
    """When to restart a proxy: at once, then with pauses that double, until it was ready for a minute."""

    def __init__(self) -> None:
        self._pause = 0.0
        self.counts: dict[str, int] = {}

    def pause_after(self, reason: str, ready_for: float | None) -> float:
        """Seconds to wait. ``ready_for``: how long the proxy had been ready; None: it never was."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if ready_for is not None and ready_for >= _CALM_S:
            self._pause = 0.0
        pause = self._pause
        self._pause = min(max(_FIRST_PAUSE_S, 2 * pause), _LONGEST_PAUSE_S)
        return pause
