"""The injector's metrics for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from daemon.process_metrics import process_families
from daemon.prometheus_text import MetricFamily, ObservedHistogram, counter, gauge, histogram, render

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From an unchanged Pod (under a millisecond) to the webhook's time limit."""
_BYTES: Final = (256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


class InjectorMetrics:
    """Counters, histograms and gauges of one server, including the process's memory and CPU time."""

    def __init__(self) -> None:
        self.ready = False
        """Whether the injector is ready."""
        self.old_kubelets: int | None = None
        """Nodes whose kubelet has no native sidecars; None: not known."""
        self.longest_step: Callable[[], float] = lambda: 0.0
        """See :class:`daemon.turns.LoopTurns`."""
        self._waits: dict[bool, ObservedHistogram] = {}
        self._reviews: Tally[tuple[str, str]] = Tally()
        self._seconds: dict[str, ObservedHistogram] = {}
        self._patch_bytes = ObservedHistogram(_BYTES)
        self._api_errors: Tally[tuple[str, str, str]] = Tally()
        self._expiry: dict[str, float] = {}
        self._loads: Tally[str] = Tally()
        self._events: Tally[str] = Tally()

    def reviewed(self, webhook: str, result: str, seconds: float, patch_bytes: int) -> None:
        """Count a review answered after this many seconds; ``patch_bytes`` is 0 for an unchanged Pod."""
        self._reviews[result, webhook] += 1
        self._seconds.setdefault(webhook, ObservedHistogram(_SECONDS)).observe(seconds)
        if patch_bytes:
            self._patch_bytes.observe(patch_bytes)

    def api_failed(self, verb: str, resource: str, code: int) -> None:
        self._api_errors[str(code), resource, verb] += 1

    def expires(self, certificate: str, when: datetime) -> None:
        """``certificate`` is serving or authority."""
        self._expiry[certificate] = when.timestamp()

    def loaded(self, result: str) -> None:
        """Count a serving certificate that was loaded, or failed to load."""
        self._loads[result] += 1

    def event(self, result: str) -> None:
        """Count an Event that was written, failed to be, or was dropped."""
        self._events[result] += 1

    def waited(self, proven: bool, seconds: float) -> None:
        """Count a turn of a client that has proven itself, or has not, after this many seconds."""
        self._waits.setdefault(proven, ObservedHistogram(_SECONDS)).observe(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus text format."""
        return render([*process_families(), *self._families()])

    def _families(self) -> Iterator[MetricFamily]:
        reviews = counter("podlane_injector_admissions", "Reviews by webhook and result.", "result", "webhook")
        for names, number in self._reviews.items():
            reviews.add(number, *names)
        seconds = histogram("podlane_injector_admission_seconds", "From a review's head to its answer.", "webhook")
        for webhook, each in self._seconds.items():
            each.add_to(seconds, webhook)
        patches = histogram("podlane_injector_patch_bytes", "Size of the JSON patch of changed Pods.")
        self._patch_bytes.add_to(patches)
        errors = counter(
            "podlane_injector_api_errors", "Requests to the API server that failed; code 0: no answer.",
            "code", "resource", "verb",
        )  # fmt: skip
        for place, number in self._api_errors.items():
            errors.add(number, *place)
        expiry = gauge(
            "podlane_injector_certificate_expiry_timestamp_seconds",
            "When a certificate expires, in Unix time: the serving one, and the injector's own authority.",
            "certificate",
        )
        for certificate, when in self._expiry.items():
            expiry.add(when, certificate)
        loads = counter("podlane_injector_certificate_loads", "Serving certificates put in use, by result.", "result")
        for result, number in self._loads.items():
            loads.add(number, result)
        events = counter("podlane_injector_events", "Events about Pods, by what became of them.", "result")
        for result, number in self._events.items():
            events.add(number, result)
        ready = gauge("podlane_injector_ready", "1 when Pods can be answered for.")
        ready.add(self.ready)
        old = gauge("podlane_injector_old_kubelets", "Nodes on which no Pod with a sidecar starts.")
        if self.old_kubelets is not None:
            old.add(self.old_kubelets)
        waits = histogram(
            "podlane_injector_turn_wait_seconds",
            "How long what arrived waited for its turn, by what became of its client's earlier requests.",
            "standing",
        )
        for proven, each in self._waits.items():
            each.add_to(waits, "proven" if proven else "other")
        longest = gauge(
            "podlane_injector_longest_step_seconds",
            "The most of the processor that anything has taken before others had their turns.",
        )
        longest.add(self.longest_step())
        yield from (reviews, seconds, patches, errors, expiry, loads, events, ready, old, waits, longest)
