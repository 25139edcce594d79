"""Counting connections by class, and forgetting classes that are gone."""

from __future__ import annotations

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.routing.flow import Destination
from datapath.shaping import ClassSnapshot, Received
from sidecar.observability.metrics import Metrics, ReceivedMetrics, Workers
from sidecar.transport.observer import ConnectionOutcome, ConnectionSummary
from tc_core.handles import Handle
from tc_core.stats import ClassStats
from traffic_policy.units import Rate

TLS = Detection(Protocol.TLS, Reason.FOUND, sni="a.example.com")


def ended(class_name: str, *, up: int = 0, down: int = 0) -> ConnectionSummary:
    destination = Destination.parse("192.0.2.1", 443)
    return ConnectionSummary(
        ("192.0.2.2", 40000), destination, class_name, TLS, up, down, 1.0, ConnectionOutcome.COMPLETE
    )


def samples(metrics: Metrics) -> set[str]:
    return {line for line in metrics.render().decode().splitlines() if not line.startswith("#")}


def test_connections_are_counted_from_their_class_to_their_end() -> None:
    metrics = Metrics(lambda: ())
    metrics.routed("web", Protocol.TLS)
    metrics.routed("web", Protocol.TLS)
    metrics.closed(ended("web", up=10, down=2000))
    assert metrics.connections["web"].active == 1
    assert metrics.connections["web"].total == 2
    assert samples(metrics) >= {
        'podlane_connections_active{class="web",protocol="tls"} 1.0',
        'podlane_connections_total{class="web",protocol="tls"} 2.0',
        'podlane_relayed_bytes_total{class="web",direction="up"} 10.0',
        'podlane_relayed_bytes_total{class="web",direction="down"} 2000.0',
    }


def test_what_arrives_has_metrics_of_its_own() -> None:
    stats = ClassStats(bytes=7, packets=2, drops=1)
    web = ClassSnapshot("web", 1, Handle(1, 0x101), Rate(8000), Rate(9000), 4, stats, Rate(3), Rate(5))
    received: list[Received | None] = [None]
    metrics = Metrics(lambda: [web], Workers, ReceivedMetrics(lambda: received[0]))
    assert not any(sample.startswith("podlane_received") for sample in samples(metrics))
    received[0] = Received("ifb-eth0", Rate(9000), (web,))
    assert samples(metrics) >= {
        'podlane_class_bytes_total{class="web"} 7.0',
        'podlane_received_bytes_total{class="web"} 7.0',
        'podlane_received_drops_total{class="web"} 1.0',
        'podlane_received_rate_bits_per_second{class="web"} 3.0',
        'podlane_received_ceil_bits_per_second{class="web"} 9000.0',
    }


def test_reloads_with_ever_new_names_fill_nothing() -> None:
    metrics = Metrics(lambda: ())
    for number in range(1000):
        metrics.routed(f"c{number}", Protocol.TLS)
        metrics.closed(ended(f"c{number}"))
        metrics.keep([f"c{number}", "default"])
    assert list(metrics.connections) == ["c999"]
    assert not any('"c998"' in sample for sample in samples(metrics))


def test_a_class_that_is_gone_is_remembered_while_connections_have_it() -> None:
    metrics = Metrics(lambda: ())
    metrics.routed("old", Protocol.TLS)
    metrics.keep(["default"])
    assert metrics.connections["old"].active == 1
    metrics.closed(ended("old"))
    metrics.keep(["default"])
    assert not metrics.connections
