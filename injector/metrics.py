"""What the injector did, counted, for Prometheus."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a Pod that is left alone (under a millisecond) to the webhook's time limit."""
_BYTES = (256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


class Metrics:
    """Counters, histograms and gauges of one server; the process's own memory and CPU time are among them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.admissions = Counter(
            "podlane_injector_admissions", "Reviews by webhook and result.", ["webhook", "result"], registry=registry
        )  # fmt: skip
        self.seconds = Histogram(
            "podlane_injector_admission_seconds", "From a review's head to its answer.", ["webhook"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.patch_bytes = Histogram(
            "podlane_injector_patch_bytes", "Size of the JSON patch of changed Pods.",
            buckets=_BYTES, registry=registry,
        )  # fmt: skip
        self.api_errors = Counter(
            "podlane_injector_api_errors", "Requests to the API server that failed; code 0: no answer.",
            ["verb", "resource", "code"], registry=registry,
        )  # fmt: skip
        self.certificate_expiry = Gauge(
            "podlane_injector_certificate_expiry_timestamp_seconds",
            "When a certificate expires, in Unix time: the serving one, and the injector's own authority.",
            ["certificate"], registry=registry,
        )  # fmt: skip
        self.certificate_loads = Counter(
            "podlane_injector_certificate_loads", "Serving certificates put in use, by result.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("podlane_injector_ready", "1 when Pods can be answered for.", registry=registry)

    def api_failed(self, verb: str, resource: str, code: int) -> None:
        """A request to the API server failed."""
        self.api_errors.labels(verb, resource, str(code)).inc()

    def expires(self, certificate: str, when: datetime) -> None:
        """``certificate`` is serving or authority."""
        self.certificate_expiry.labels(certificate).set(when.timestamp())

    def render(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self._registry)
