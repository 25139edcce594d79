"""What the proxy did, and what the kernel counted, in Prometheus' text format.

The proxy reports each event of a connection's life to :class:`~sidecar.tallies.Tallies`, which :class:`Metrics` is as
well; where workers relay (:mod:`sidecar.workers`), each has its own and they are added up here. The kernel's counters
of each class are read by :mod:`sidecar.shaping`. All of it is put together when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.shaping import ClassSnapshot
from sidecar.tallies import DETECTION_BUCKETS, Tallies


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes that relay: how many there are, and what those that are not this one have counted."""

    present: int = 1
    tallies: tuple[Tallies, ...] = ()


class Metrics(Tallies):
    """The tallies of this process, and the way to those of all. See :meth:`sum` and :meth:`render`."""

    def __init__(self, classes: Callable[[], Iterable[ClassSnapshot]], crew: Callable[[], Crew] = Crew) -> None:
        super().__init__()
        self._crew = crew
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(classes, crew, self))

    def sum(self) -> Tallies:
        """What all processes together have counted: this one, its workers, and those that are gone."""
        others = self._crew().tallies
        if not others:
            return self
        total = Tallies()
        for tallies in (self, *others):
            total.add(tallies)
        return total

    def in_use(self, names: Iterable[str]) -> frozenset[str]:
        """``names``, and those of other classes that connections still have, in whatever process."""
        return frozenset(names) | {name for name, counts in self.sum().connections.items() if counts.active}

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
        yield from self._of_the_kernel()
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
        refused = CounterMetricFamily(
            "podlane_connections_refused", "Connections that were not relayed.", labels=["reason"]
        )  # fmt: skip
        for name, number in list(counted.refusals.items()):
            refused.add_metric([name], number)
        yield from (detections, seconds, refused)

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

    def _of_the_kernel(self) -> Iterator[Metric]:
        snapshots = list(self._classes())
        counters: tuple[tuple[str, str, Callable[[ClassSnapshot], float]], ...] = (
            ("bytes", "Bytes sent, link headers included.", lambda s: s.stats.bytes),
            ("packets", "Packets sent.", lambda s: s.stats.packets),
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
            counter = CounterMetricFamily(f"podlane_class_{name}", text, labels=["class"])
            for snapshot in snapshots:
                counter.add_metric([snapshot.name], value(snapshot))
            yield counter
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(f"podlane_class_{name}", text, labels=["class"])
            for snapshot in snapshots:
                gauge.add_metric([snapshot.name], value(snapshot))
            yield gauge
