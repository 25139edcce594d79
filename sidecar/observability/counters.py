"""The counters of a relay: plain numbers, which can be added up and sent to another process.

They become metrics on request (:mod:`sidecar.observability.metrics`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, Self

from daemon.documents.classes import ConnectionCounts
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow
from sidecar.transport.observer import ConnectionSummary

# From a hello in the first packet (tens of microseconds) to the default detection timeout of a second, and beyond.
DETECTION_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class ClassConnections:
    """Connections of one class, by protocol, and the payload of those that have ended or moved to another."""

    active_by_protocol: Tally[str] = field(default_factory=Tally)
    by_protocol: Tally[str] = field(default_factory=Tally)
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def active(self) -> int:
        """Connections alive."""
        return self.active_by_protocol.total()

    @property
    def total(self) -> int:
        """Connections since the class was created."""
        return self.by_protocol.total()

    def add(self, other: ClassConnections) -> None:
        """Add the counts of another."""
        self.active_by_protocol.update(other.active_by_protocol)
        self.by_protocol.update(other.by_protocol)
        self.bytes_up += other.bytes_up
        self.bytes_down += other.bytes_down


@dataclass(slots=True)
class ConnectionCounters:
    """Counts connections by class and protocol: the ``Observer`` of a proxy, or the ``Witness`` of step-aside.

    Counts labelled by class are kept in :attr:`connections` alone and are removed with the class, so that reloads with
    ever new names do not fill the memory. One thread may count while another reads.
    """

    connections: dict[str, ClassConnections] = field(default_factory=dict)
    detections: Tally[tuple[Protocol, Reason]] = field(default_factory=Tally)
    detection_times: list[int] = field(default_factory=lambda: [0] * (len(DETECTION_BUCKETS) + 1))
    """Detections per bucket, not cumulative; the last one is above all bounds."""
    detection_seconds: float = 0.0
    refusals: Tally[str] = field(default_factory=Tally)
    doubts: int = 0
    """Connections in which the beginning of a request could no longer be determined."""
    lines_lost: int = 0
    """Lines of the access log that could not be queued or written."""
    workers_replaced: int = 0
    """Worker processes that ended unexpectedly, and were replaced."""

    def keep(self, names: Container[str]) -> None:
        """Remove the classes that are not among ``names``, except those with live connections."""
        for name in [n for n, counts in list(self.connections.items()) if n not in names and not counts.active]:
            del self.connections[name]

    def detected(self, detection: Detection, seconds: float) -> None:
        """Detection of a connection has ended after ``seconds``."""
        self.detections[detection.protocol, detection.reason] += 1
        self.detection_times[bisect_left(DETECTION_BUCKETS, seconds)] += 1
        self.detection_seconds += seconds

    def routed(self, class_name: str, protocol: Protocol) -> None:
        """A connection has its class and is being dialled."""
        counts = self._of_class(class_name)
        counts.by_protocol[protocol] += 1
        counts.active_by_protocol[protocol] += 1

    def moved(self, old: str, new: str, protocol: Protocol, bytes_up: int, bytes_down: int) -> None:
        """A connection has changed its class. It does not count as new there."""
        left, counts = self.connections[old], self._of_class(new)
        left.active_by_protocol[protocol] -= 1
        left.bytes_up += bytes_up
        left.bytes_down += bytes_down
        counts.active_by_protocol[protocol] += 1
        counts.by_protocol[protocol] += 0  # make the protocol appear in this class

    def stepped_aside(
        self,
        flow: bytes,  # noqa: ARG002  # for others
        known: DetectedFlow,
        chosen: ChosenClass,
    ) -> None:
        """A connection has its class and continues without the proxy; its end will not be seen."""
        self._of_class(chosen.class_name).by_protocol[known.detection.protocol] += 1

    def decided_in_kernel(self, class_name: str, detection: Detection, count: int) -> None:
        """So many connections have their class by programs in the kernel."""
        self.detections[detection.protocol, detection.reason] += count
        self._of_class(class_name).by_protocol[detection.protocol] += count

    def doubted(self) -> None:
        """The beginning of the next request of a followed connection can no longer be determined."""
        self.doubts += 1

    def refused(self, reason: str) -> None:
        """A connection was refused, or its upstream could not be reached."""
        self.refusals[reason] += 1

    def closed(self, summary: ConnectionSummary) -> None:
        """A routed connection ended."""
        counts = self.connections[summary.class_name]
        counts.active_by_protocol[summary.detection.protocol] -= 1
        counts.bytes_up += summary.bytes_up - summary.told_up
        counts.bytes_down += summary.bytes_down - summary.told_down

    def lost_lines(self, count: int) -> None:
        """Lines of the access log could not be queued or written."""
        self.lines_lost += count

    def add(self, other: ConnectionCounters) -> None:
        """Add the counters of another."""
        for name, counts in list(other.connections.items()):
            self._of_class(name).add(counts)
        self.detections.update(other.detections)
        self.detection_times = [a + b for a, b in zip(self.detection_times, other.detection_times, strict=True)]
        self.detection_seconds += other.detection_seconds
        self.refusals.update(other.refusals)
        self.doubts += other.doubts
        self.lines_lost += other.lines_lost
        self.workers_replaced += other.workers_replaced

    def counts(self, class_name: str) -> ConnectionCounts:
        """The connections of a class, for ``/classes``."""
        counted = self.connections.get(class_name, ClassConnections())
        return ConnectionCounts(counted.active, counted.total, dict(counted.by_protocol))

    def at_rest(self) -> Self:
        """The final counters of an ended process, whose connections have ended with it."""
        for counts in self.connections.values():
            counts.active_by_protocol.clear()
        return self

    def _of_class(self, name: str) -> ClassConnections:
        counts = self.connections.get(name)
        if counts is None:
            # Another thread may insert at the same time: only the result of setdefault is in the dictionary.
            counts = self.connections.setdefault(name, ClassConnections())
        return counts
