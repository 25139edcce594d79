"""Many Pods created at once: what each creation takes, and what the API server's own metrics say of the webhooks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks.admission.load import percentile
from benchmarks.errors import MeasurementError
from benchmarks.kind import manifests
from benchmarks.kind.cluster import PATIENCE, Api, until
from benchmarks.kind.exposition import Histogram
from benchmarks.kind.manifests import Place
from benchmarks.kind.variants import Variant

_METRIC: Final = "apiserver_admission_webhook_admission_duration_seconds"
_VERBS: Final = ("inject", "validate")
"""As the chart calls its webhooks, for Pods that ask for the sidecar by their own label: pod.VERB.podlane.io."""


def create(api: Api, place: Place, count: int, variant: Variant) -> dict[str, float]:
    """Create so many Pods at the same time, for no node; gives figures, and removes the Pods.

    Raises :class:`ClusterError` when one is refused, :class:`MeasurementError` when the metrics do not fit.
    """
    pods = f"/api/v1/namespaces/{place.namespace}/pods"
    documents = [manifests.unscheduled(place, f"burst-{number}", variant) for number in range(count)]
    together = threading.Barrier(count)

    def one(document: manifests.Document) -> float:
        together.wait()
        began = time.monotonic()
        api.ask("POST", pods, document)
        return time.monotonic() - began

    before = _webhooks(api) if variant.injected else {}
    try:
        with ThreadPoolExecutor(count) as threads:
            took = list(threads.map(one, documents))
        after = _webhooks(api) if variant.injected else {}
    finally:
        api.ask("DELETE", f"{pods}?gracePeriodSeconds=0")
        until("the Pods of the burst to be gone", lambda: not api.get(pods)["items"], PATIENCE)
    found = {f"create_p{share}_ms": percentile(took, share / 100) * 1e3 for share in (50, 99)}
    for verb, histogram in after.items():
        found |= _latency(verb, histogram.since(before[verb]), count)
    return found


def _webhooks(api: Api) -> dict[str, Histogram]:
    text = api.text("/metrics")
    return {verb: Histogram.read(text, _METRIC, _labels(verb)) for verb in _VERBS}


def _labels(verb: str) -> dict[str, str]:
    return {"name": f"pod.{verb}.podlane.io", "operation": "CREATE"}


def _latency(verb: str, counted: Histogram, count: int) -> dict[str, float]:
    if counted.count < count:
        raise MeasurementError(
            f"the API server that was asked for its metrics has {counted.count:g} of {count} calls of {verb}: "
            "where there are several API servers, name one by its address in the kubeconfig"
        )
    return {
        f"{verb}_mean_ms": counted.mean * 1e3,
        f"{verb}_p50_ms": counted.quantile(0.5) * 1e3,
        f"{verb}_p99_ms": counted.quantile(0.99) * 1e3,
    }
