"""The proxy's and the kernel's counters, in Prometheus' text format.

The proxy reports each event of a connection to :class:`~sidecar.observability.counters.ConnectionCounters`, a base of
:class:`Metrics`; workers (:mod:`sidecar.workers`) have their own, which are added up here. :mod:`datapath.shaping`
reads the kernel's counters of each class. Metrics are assembled on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from daemon.prometheus_text import Collector, MetricFamily, counter, gauge, histogram, render
from datapath.documents.metrics import class_families
from datapath.enforcement import Repairs
from datapath.shaping import ClassSnapshot, Received
from sidecar.observability.counters import DETECTION_BUCKETS, ConnectionCounters


@dataclass(frozen=True, slots=True)
class Workers:
    """The number of relaying processes, and the counters of those other than this one."""

    present: int = 1
    counters: tuple[ConnectionCounters, ...] = ()


class Metrics(ConnectionCounters):
    """The counters of this process, and access to those of all. See :meth:`sum` and :meth:`render`."""

    def __init__(
        self, classes: Callable[[], Iterable[ClassSnapshot]], workers: Callable[[], Workers] = Workers, *more: Collector
    ) -> None:
        """``more``: collectors of further metrics."""
        super().__init__()
        self.workers = workers
        """Returns the current relaying processes."""
        self._collectors: tuple[Collector, ...] = (_Collector(classes, workers, self), *more)

    def sum(self) -> ConnectionCounters:
        """The counters of all processes together: this one, its workers, and those that have ended."""
        others = self.workers().counters
        if not others:
            return self
        total = ConnectionCounters()
        for counters in (self, *others):
            total.add(counters)
        return total

    def render(self) -> bytes:
        """All metrics in Prometheus text format."""
        return render(family for collector in self._collectors for family in collector.collect())


class _Collector:
    """The kernel's counters of each class, as last sampled, and the counters of connections."""

    def __init__(
        self, classes: Callable[[], Iterable[ClassSnapshot]], workers: Callable[[], Workers], metrics: Metrics
    ) -> None:
        self._classes = classes
        self._workers = workers
        self._metrics = metrics

    def collect(self) -> Iterator[MetricFamily]:
        counted = self._metrics.sum()
        yield from class_families("podlane_class", "sent", [((), each) for each in self._classes()])
        yield from self._of_the_proxy(counted)
        yield from self._of_detection(counted)
        yield from self._of_workers(counted)

    def _of_workers(self, counted: ConnectionCounters) -> Iterator[MetricFamily]:
        workers = gauge("podlane_workers", "Processes that relay connections.")
        workers.add(self._workers().present)
        replaced = counter("podlane_workers_replaced", "Workers that ended unasked and were replaced.")
        replaced.add(counted.workers_replaced)
        yield from (workers, replaced)

    def _of_detection(self, counted: ConnectionCounters) -> Iterator[MetricFamily]:
        detections = counter("podlane_detections", "Detections by protocol found and reason.", "protocol", "reason")
        for (protocol, reason), number in list(counted.detections.items()):
            detections.add(number, protocol, reason)
        seconds = histogram("podlane_detection_seconds", "From accept to the end of detection.")
        seconds.add_counts(DETECTION_BUCKETS, counted.detection_times, counted.detection_seconds)
        lost = counter("podlane_access_log_lost", "Lines of the access log that could not be kept or written.")
        lost.add(counted.lines_lost)
        refused = counter("podlane_connections_refused", "Connections that were not relayed.", "reason")
        for name, number in list(counted.refusals.items()):
            refused.add(number, name)
        doubted = counter("podlane_requests_ambiguous", "Connections whose requests could not be followed any more.")
        doubted.add(counted.doubts)
        yield from (detections, seconds, refused, doubted, lost)

    def _of_the_proxy(self, counted: ConnectionCounters) -> Iterator[MetricFamily]:
        active = gauge("podlane_connections_active", "Connections alive.", "class", "protocol")
        total = counter("podlane_connections", "Connections that were given a class.", "class", "protocol")
        relayed = counter("podlane_relayed_bytes", "Payload of finished connections.", "class", "direction")
        for name, counts in list(counted.connections.items()):
            for protocol, number in list(counts.by_protocol.items()):
                total.add(number, name, protocol)
                active.add(counts.active_by_protocol[protocol], name, protocol)
            relayed.add(counts.bytes_up, name, "up")
            relayed.add(counts.bytes_down, name, "down")
        yield from (active, total, relayed)


class EnforcementMetrics:
    """What other programs have removed of what was installed."""

    def __init__(self, repairs: Callable[[], Repairs]) -> None:
        self._repairs = repairs

    def collect(self) -> Iterator[MetricFamily]:
        """Whether something is missing now, and what was put back."""
        repairs = self._repairs()
        lost = gauge("podlane_enforcement_lost", "1: rules, routes or classes are missing now.")
        lost.add(bool(repairs.lost))
        repaired = counter("podlane_enforcement_repairs", "Times that what was missing was put back.", "part")
        for part, number in repairs.counts.items():
            repaired.add(number, part)
        yield from (lost, repaired)


class ReceivedMetrics:
    """The same of received traffic, for the classes that limit it."""

    def __init__(self, received: Callable[[], Received | None]) -> None:
        self._received = received

    def collect(self) -> Iterator[MetricFamily]:
        """All families; they are empty if nothing is limited."""
        received = self._received()
        return class_families(
            "podlane_received", "received", [((), each) for each in (received.classes if received else ())]
        )
