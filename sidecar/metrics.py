"""What the proxy did, and what the kernel counted, in Prometheus' text format.

The proxy reports each event of a connection's life to :class:`~sidecar.tallies.Tallies`, which :class:`Metrics` is as
well; where workers relay (:mod:`sidecar.workers`), each has its own and they are added up here. The kernel's counters
of each class are read by :mod:`sidecar.shaping`. All of it is put together when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.shaping import ClassSnapshot, Received
from sidecar.tallies import DETECTION_BUCKETS, Tallies


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes that relay: how many there are, and what those that are not this one have counted."""

    present: int = 1
    tallies: tuple[Tallies, ...] = ()


class Metrics(Tallies):
    """The tallies of this process, and the way to those of all. See :meth:`sum` and :meth:`render`."""

    def __init__(
        self, classes: Callable[[], Iterable[ClassSnapshot]], crew: Callable[[], Crew] = Crew, *more: Collector
    ) -> None:
        """``more``: who has metrics of its own."""
        super().__init__()
        self._crew = crew
        self._registry = CollectorRegistry()
        for collector in (_Collector(classes, crew, self), *more):
            self._registry.register(collector)

    def sum(self) -> Tallies:
        """What all processes together have counted: this one, its workers, and those that are gone."""
        others = self._crew().tallies
        if not others:
            return self
        total = Tallies()
        for tallies in (self, *others):
            total.add(tallies)
        return total

    def render(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self._registry)


class _Collector(Collector):
    """What there is to tell: the kernel's counters of each class, as the sampler last read them, and connections."""

    def __init__(
        self, classes: Callable[[], Iterable[ClassSnapshot]], crew: Callable[[], Crew], metrics: Metrics
    ) -> None:
        self._classes = classes
        self._crew = crew
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        counted = self._metrics.sum()
        yield from class_families("podlane_class", "sent", list(self._classes()))
        yield from self._of_the_proxy(counted)
        yield from self._of_detection(counted)
        yield from self._of_workers(counted)

    def _of_workers(self, counted: Tallies) -> Iterator[Metric]:
        workers = GaugeMetricFamily("podlane_workers", "Processes that relay connections.")
        workers.add_metric([], self._crew().present)
        replaced = CounterMetricFamily("podlane_workers_replaced", "Workers that ended unasked and were replaced.")
        replaced.add_metric([], counted.workers_replaced)
        yield from (workers, replaced)

    def _of_detection(self, counted: Tallies) -> Iterator[Metric]:
        detections = CounterMetricFamily(
            "podlane_detections", "Detections by protocol found and reason.", labels=["protocol", "reason"]
        )  # fmt: skip
        for (protocol, reason), number in list(counted.detections.items()):
            detections.add_metric([protocol, reason], number)
        seconds = HistogramMetricFamily("podlane_detection_seconds", "From accept to the end of detection.")
        reached = 0
        buckets = []
        bounds = (*(str(bound) for bound in DETECTION_BUCKETS), "+Inf")
        for bound, number in zip(bounds, counted.detection_times, strict=True):
            reached += number
            buckets.append((bound, reached))
        seconds.add_metric([], buckets, counted.detection_seconds)
        lost = CounterMetricFamily(
            "podlane_access_log_lost", "Lines of the access log that could not be kept or written."
        )  # fmt: skip
        lost.add_metric([], counted.lines_lost)
        refused = CounterMetricFamily(
            "podlane_connections_refused", "Connections that were not relayed.", labels=["reason"]
        )  # fmt: skip
        for name, number in list(counted.refusals.items()):
            refused.add_metric([name], number)
        doubted = CounterMetricFamily(
            "podlane_requests_ambiguous", "Connections whose requests could not be followed any more."
        )  # fmt: skip
        doubted.add_metric([], counted.doubts)
        yield from (detections, seconds, refused, doubted, lost)

    def _of_the_proxy(self, counted: Tallies) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "podlane_connections_active", "Connections alive.", labels=["class", "protocol"]
        )  # fmt: skip
        total = CounterMetricFamily(
            "podlane_connections", "Connections that were given a class.", labels=["class", "protocol"]
        )  # fmt: skip
        relayed = CounterMetricFamily(
            "podlane_relayed_bytes", "Payload of finished connections.", labels=["class", "direction"]
        )  # fmt: skip
        for name, counts in list(counted.connections.items()):
            for protocol, number in list(counts.by_protocol.items()):
                total.add_metric([name, protocol], number)
                active.add_metric([name, protocol], counts.active_by_protocol[protocol])
            relayed.add_metric([name, "up"], counts.bytes_up)
            relayed.add_metric([name, "down"], counts.bytes_down)
        yield from (active, total, relayed)


def class_families(prefix: str, verb: str, snapshots: Sequence[ClassSnapshot]) -> Iterator[Metric]:
    """What the kernel counted of each class, whose packets were ``verb`` (sent, received)."""
    counters: tuple[tuple[str, str, Callable[[ClassSnapshot], float]], ...] = (
        ("bytes", f"Bytes {verb}, link headers included.", lambda s: s.stats.bytes),
        ("packets", f"Packets {verb}.", lambda s: s.stats.packets),
        ("drops", "Packets dropped.", lambda s: s.stats.drops),
        ("overlimits", "Times the class had to wait for tokens.", lambda s: s.stats.overlimits),
    )
    gauges: tuple[tuple[str, str, Callable[[ClassSnapshot], float]], ...] = (
        ("backlog_bytes", "Bytes waiting.", lambda s: s.stats.backlog_bytes),
        ("backlog_packets", "Packets waiting.", lambda s: s.stats.backlog_packets),
        ("rate_bits_per_second", "Rate now.", lambda s: s.current_rate.bits_per_second),
        ("guaranteed_bits_per_second", "Guaranteed rate.", lambda s: s.rate.bits_per_second),
        ("ceil_bits_per_second", "Most it may borrow up to.", lambda s: s.ceil.bits_per_second),
    )
    for name, text, value in counters:
        counter = CounterMetricFamily(f"{prefix}_{name}", text, labels=["class"])
        for snapshot in snapshots:
            counter.add_metric([snapshot.name], value(snapshot))
        yield counter
    for name, text, value in gauges:
        gauge = GaugeMetricFamily(f"{prefix}_{name}", text, labels=["class"])
        for snapshot in snapshots:
            gauge.add_metric([snapshot.name], value(snapshot))
        yield gauge


class ReceivedMetrics(Collector):
    """The same of what arrives, for the classes that limit it."""

    def __init__(self, received: Callable[[], Received | None]) -> None:
        self._received = received

    def collect(self) -> Iterator[Metric]:
        """All families, which are empty where nothing is limited."""
        received = self._received()
        return class_families("podlane_received", "received", received.classes if received else ())
