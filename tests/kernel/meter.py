"""What arrives of a payload, as a mean over some seconds: the receiver counts, and its bytes are the clock."""

from __future__ import annotations

import threading
import time

MEASURE = 5.0
"""Seconds over which a mean is compared."""
SETTLE = 1.5
"""Seconds before: slow start and the first burst pass."""
ATTEMPTS = 3
"""A machine that is busy with other work starves senders, which no shaper can mend. So what is sent too slowly is measured
again; what is sent too fast fails at once."""
PAYLOAD_SHARE = 1448 / 1514
"""Of each 1,514 bytes that HTB counts (Ethernet 14, IPv4 20, TCP 20, timestamps 12) 1,448 are payload."""


class Meter:
    """Bytes that arrive, in a window of some seconds that begins ``SETTLE`` seconds after the first. Several may count."""

    def __init__(self, seconds: float = MEASURE) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._began: float | None = None
        self._within = 0
        self.total = 0
        """Bytes since the beginning."""
        self.settled = threading.Event()
        self.done = threading.Event()
        self._came = threading.Event()

    def count(self, size: int) -> None:
        """So much has come."""
        now = time.monotonic()
        self._came.set()
        with self._lock:
            self.total += size
            self._began = self._began or now
            elapsed = now - self._began
            if elapsed >= SETTLE:
                self.settled.set()
            if SETTLE <= elapsed < SETTLE + self._seconds:
                self._within += size
            elif elapsed >= SETTLE + self._seconds:
                self.done.set()

    def wait_for_more(self) -> None:
        """Something comes from now on, or the test fails."""
        self._came.clear()
        assert self._came.wait(10), "nothing arrives any more"

    @property
    def megabits(self) -> float:
        """Mbit/s in the window."""
        assert self.done.wait(30), "less arrives than would fill the window"
        return self._within * 8 / self._seconds / 1e6
