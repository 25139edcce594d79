"""What a node's kubelet counts of a container, asked through the API server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.errors import MeasurementError
from benchmarks.kind.cluster import Api
from benchmarks.kind.exposition import Usage, usage

_PATIENCE: Final = 60.0
_LOOK_AGAIN: Final = 0.5
"""Seconds between two questions: a kubelet's own looks are 10 to 15 s apart (its housekeeping interval)."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container, as the kubelet of its node sees it."""

    api: Api
    node: str
    namespace: str
    pod: str
    name: str

    def next_look(self) -> Usage:
        """What the kubelet finds when it looks for the next time: a look that was not there yet is one after the call.

        Raises :class:`MeasurementError`, :class:`ClusterError`.
        """
        give_up = time.monotonic() + _PATIENCE
        before = self._last_look()
        while (found := self._last_look()) is None or (before is not None and found.taken == before.taken):
            if time.monotonic() > give_up:
                raise MeasurementError(f"the kubelet did not look at {self.name} of {self.pod} within {_PATIENCE:g} s")
            threading.Event().wait(_LOOK_AGAIN)  # a kubelet does not notify
        return found

    def _last_look(self) -> Usage | None:
        text = self.api.text(f"/api/v1/nodes/{self.node}/proxy/metrics/cadvisor")
        return usage(text, self.namespace, self.pod, self.name)


class Counter:
    """CPU time of loads, and memory before and after them. ``look`` waits for the kubelet's next one.

    All of it raises what ``look`` raises.
    """

    def __init__(self, look: Callable[[], Usage]) -> None:
        self._look = look
        self._first = self._last = look()
        self._loaded = self._unseen = False

    def begin(self) -> None:
        """A load begins. What the one before took is looked at now where it has not been: it is not this one's."""
        self._see()
        self._loaded = self._unseen = True

    def cpu(self) -> float:
        """Seconds of CPU since the load began, when it has ended."""
        before = self._last.cpu
        self._see()
        return self._last.cpu - before

    def figures(self) -> dict[str, float]:
        """Those of :data:`benchmarks.kind.figures.USAGE`: after the loads only when there was one."""
        found = {"start_cpu_s": self._first.cpu, "fresh_mib": self._first.working_set}
        if self._loaded:
            self._see()
            found |= {"after_mib": self._last.working_set, "resident_mib": self._last.resident}
        return found

    def _see(self) -> None:
        if self._unseen:
            self._last = self._look()
            self._unseen = False
