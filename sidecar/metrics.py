"""What the proxy did, counted: for Prometheus, and for ``/classes``.

The proxy reports each event of a connection's life here (it is the ``Observer`` of :mod:`sidecar.server`); the kernel's
counters of each class are read by :mod:`sidecar.shaping` and merged in when somebody asks.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.protocols.detect import Detection, Protocol
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
    """

    def __init__(self, classes: Callable[[], Iterable[ClassSnapshot]]) -> None:
        self.connections: dict[str, ClassConnections] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_ClassCollector(classes, self.connections))
        self._detections = Counter(
            "podlane_detections", "Detections by protocol found and reason.", ["protocol", "reason"],
            registry=self._registry,
        )  # fmt: skip
        self._detection_seconds = Histogram(
            "podlane_detection_seconds", "From accept to the end of detection.", buckets=_DETECTION_BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        self._refused = Counter(
            "podlane_connections_refused", "Connections that were not relayed.", ["reason"], registry=self._registry
        )

    def keep(self, names: Container[str]) -> None:
        """Forget the classes that are not among ``names``, except those that connections still have."""
        for name in [n for n, counts in self.connections.items() if n not in names and not counts.active]:
            del self.connections[name]

    def detected(self, detection: Detection, seconds: float) -> None:
        """A connection's first bytes were looked at for ``seconds``."""
        self._detections.labels(detection.protocol, detection.reason).inc()
        self._detection_seconds.observe(seconds)

    def routed(self, class_name: str, protocol: Protocol) -> None:
        """A connection got its class and is being dialled."""
        counts = self.connections.setdefault(class_name, ClassConnections())
        counts.by_protocol[protocol.value] += 1
        counts.active_by_protocol[protocol.value] += 1

    def refused(self, reason: str) -> None:
        """A connection was turned away, or its upstream could not be reached."""
        self._refused.labels(reason).inc()

    def closed(self, summary: ConnectionSummary) -> None:
        """A routed connection ended."""
        counts = self.connections[summary.class_name]
        counts.active_by_protocol[summary.detection.protocol.value] -= 1
        counts.bytes_up += summary.bytes_up
        counts.bytes_down += summary.bytes_down

    def render(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self._registry)


class _ClassCollector(Collector):
    """What there is to tell of each class: the kernel's counters, as the sampler last read them, and connections."""

    def __init__(
        self, classes: Callable[[], Iterable[ClassSnapshot]], connections: Mapping[str, ClassConnections]
    ) -> None:
        self._classes = classes
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_kernel()
        yield from self._of_the_proxy()

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
        for name, counts in self._connections.items():
            for protocol, number in counts.by_protocol.items():
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
