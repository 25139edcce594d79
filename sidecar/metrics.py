"""What the proxy did, counted: for Prometheus, and for ``/classes``.

The proxy reports each event of a connection's life here (it is the ``Observer`` of :mod:`sidecar.server`); the kernel's
counters of each class are read by :mod:`sidecar.shaping` and merged in when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.protocols.detect import Detection, Protocol, Reason
from sidecar.server import ConnectionSummary
from sidecar.shaping import ClassSnapshot

# From a hello in the first packet (tens of microseconds) to the default detection timeout of a second, and beyond.
_DETECTION_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class ClassConnections:
    """Connections that got one class, by protocol, and the payload of those that have ended."""

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
        """Connections since the class came."""
        return self.by_protocol.total()


class Metrics:
    """Counts connections by class and protocol; renders everything in Prometheus text format.

    What has a class for a label is kept in :attr:`connections` alone and goes with the class, so that reloads with ever
    new names do not fill the memory.

    Everything is counted in plain tallies, and made metrics of when somebody asks: prometheus_client's own counters and
    histograms take longer than choosing a connection's class. One thread may count while another renders.
    """

    def __init__(self, classes: Callable[[], Iterable[ClassSnapshot]]) -> None:
        self.connections: dict[str, ClassConnections] = {}
        self.detections: Tally[tuple[Protocol, Reason]] = Tally()
        self.detection_times = [0] * (len(_DETECTION_BUCKETS) + 1)
        """How many took up to each bucket's bound and more than the one before; the last: even longer."""
        self.detection_seconds = 0.0
        self.refusals: Tally[str] = Tally()
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(classes, self))

    def keep(self, names: Container[str]) -> None:
        """Forget the classes that are not among ``names``, except those that connections still have."""
        for name in [n for n, counts in self.connections.items() if n not in names and not counts.active]:
            del self.connections[name]

    def detected(self, detection: Detection, seconds: float) -> None:
        """A connection's first bytes were looked at for ``seconds``."""
        self.detections[detection.protocol, detection.reason] += 1
        self.detection_times[bisect_left(_DETECTION_BUCKETS, seconds)] += 1
        self.detection_seconds += seconds

    def routed(self, class_name: str, protocol: Protocol) -> None:
        """A connection got its class and is being dialled."""
        counts = self._of_class(class_name)
        counts.by_protocol[protocol] += 1
        counts.active_by_protocol[protocol] += 1

    def stepped_aside(self, flow: bytes, class_name: str, detection: Detection) -> None:  # noqa: ARG002  # for others
        """A connection got its class and goes on by itself; its end will not be seen."""
        counts = self.connections.get(class_name)
        if counts is None:
            counts = self.connections.setdefault(class_name, ClassConnections())
        counts.by_protocol[detection.protocol.value] += 1

    def refused(self, reason: str) -> None:
        """A connection was turned away, or its upstream could not be reached."""
        self.refusals[reason] += 1

    def closed(self, summary: ConnectionSummary) -> None:
        """A routed connection ended."""
        counts = self.connections[summary.class_name]
        counts.active_by_protocol[summary.detection.protocol] -= 1
        counts.bytes_up += summary.bytes_up
        counts.bytes_down += summary.bytes_down

    def _of_class(self, name: str) -> ClassConnections:
        counts = self.connections.get(name)
        if counts is None:
            # One thread may count while another does: what setdefault answers is what is there.
            counts = self.connections.setdefault(name, ClassConnections())
        return counts

    def render(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self._registry)


class _Collector(Collector):
    """What there is to tell: the kernel's counters of each class, as the sampler last read them, and connections."""

    def __init__(self, classes: Callable[[], Iterable[ClassSnapshot]], counted: Metrics) -> None:
        self._classes = classes
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_kernel()
        yield from self._of_the_proxy()
        yield from self._of_detection()

    def _of_detection(self) -> Iterator[Metric]:
        detections = CounterMetricFamily(
            "podlane_detections", "Detections by protocol found and reason.", labels=["protocol", "reason"]
        )  # fmt: skip
        for (protocol, reason), number in list(self._counted.detections.items()):
            detections.add_metric([protocol, reason], number)
        seconds = HistogramMetricFamily("podlane_detection_seconds", "From accept to the end of detection.")
        reached = 0
        buckets = []
        bounds = (*(str(bound) for bound in _DETECTION_BUCKETS), "+Inf")
        for bound, number in zip(bounds, self._counted.detection_times, strict=True):
            reached += number
            buckets.append((bound, reached))
        seconds.add_metric([], buckets, self._counted.detection_seconds)
        refused = CounterMetricFamily(
            "podlane_connections_refused", "Connections that were not relayed.", labels=["reason"]
        )  # fmt: skip
        for name, number in list(self._counted.refusals.items()):
            refused.add_metric([name], number)
        yield from (detections, seconds, refused)

    def _of_the_proxy(self) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "podlane_connections_active", "Connections alive.", labels=["class", "protocol"]
        )  # fmt: skip
        total = CounterMetricFamily(
            "podlane_connections", "Connections that were given a class.", labels=["class", "protocol"]
        )  # fmt: skip
        relayed = CounterMetricFamily(
            "podlane_relayed_bytes", "Payload of finished connections.", labels=["class", "direction"]
        )  # fmt: skip
        for name, counts in list(self._counted.connections.items()):
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
