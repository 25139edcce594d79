"""Prometheus' text format, read by Prometheus' own library."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from daemon.process_metrics import process_families
from daemon.prometheus_text import counter, gauge, histogram, render
from injector.server.metrics import InjectorMetrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: bytes) -> Samples:
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_numbers_and_labels_come_back() -> None:
    requests = counter("requests", "Back\\slash and\nline.", "path", "result")
    requests.add(3, 'a"b\\c\nd', "ok")
    level = gauge("level", "Now.")
    level.add(-0.5)
    assert samples(render([requests, level])) == {
        ("requests_total", (("path", 'a"b\\c\nd'), ("result", "ok"))): 3.0,
        ("level", ()): -0.5,
    }


def test_a_histogram_counts_up_to_each_bound() -> None:
    seconds = histogram("seconds", "Some.", "kind")
    seconds.add_counts((0.5, 1), (1, 0, 2), 7.25, "a")
    assert samples(render([seconds])) == {
        ("seconds_bucket", (("kind", "a"), ("le", "0.5"))): 1.0,
        ("seconds_bucket", (("kind", "a"), ("le", "1.0"))): 1.0,
        ("seconds_bucket", (("kind", "a"), ("le", "+Inf"))): 3.0,
        ("seconds_count", (("kind", "a"),)): 3.0,
        ("seconds_sum", (("kind", "a"),)): 7.25,
    }


def test_the_injector_counts_what_it_did() -> None:
    metrics = InjectorMetrics()
    metrics.ready = True
    metrics.reviewed("mutate", "patched", 0.002, 3000)
    metrics.reviewed("mutate", "allowed", 0.0001, 0)
    metrics.reviewed("validate", "allowed", 60.0, 0)
    metrics.api_failed("get", "configmaps", 404)
    metrics.expires("serving", datetime.fromtimestamp(1000, UTC))
    metrics.loaded("loaded")
    told = samples(metrics.render())
    prefix = "podlane_injector_"
    expected: Samples = {
        (f"{prefix}admissions_total", (("result", "patched"), ("webhook", "mutate"))): 1.0,
        (f"{prefix}admissions_total", (("result", "allowed"), ("webhook", "mutate"))): 1.0,
        (f"{prefix}admission_seconds_bucket", (("le", "0.001"), ("webhook", "mutate"))): 1.0,
        (f"{prefix}admission_seconds_bucket", (("le", "0.0025"), ("webhook", "mutate"))): 2.0,
        (f"{prefix}admission_seconds_bucket", (("le", "10.0"), ("webhook", "validate"))): 0.0,
        (f"{prefix}admission_seconds_count", (("webhook", "validate"),)): 1.0,
        (f"{prefix}patch_bytes_bucket", (("le", "2048.0"),)): 0.0,
        (f"{prefix}patch_bytes_bucket", (("le", "4096.0"),)): 1.0,
        (f"{prefix}patch_bytes_count", ()): 1.0,
        (f"{prefix}api_errors_total", (("code", "404"), ("resource", "configmaps"), ("verb", "get"))): 1.0,
        (f"{prefix}certificate_expiry_timestamp_seconds", (("certificate", "serving"),)): 1000.0,
        (f"{prefix}certificate_loads_total", (("result", "loaded"),)): 1.0,
        (f"{prefix}ready", ()): 1.0,
    }
    assert expected.items() <= told.items()
    assert told["process_resident_memory_bytes", ()] > 1 << 20


def test_a_process_tells_what_the_kernel_knows() -> None:
    before = os.times()
    told = samples(render(process_families()))
    assert told["process_cpu_seconds_total", ()] >= before.user + before.system - 0.02
    assert told["process_open_fds", ()] >= 3
    assert 0 < told["process_start_time_seconds", ()] < datetime.now(UTC).timestamp() + 60
    assert told["process_virtual_memory_bytes", ()] > told["process_resident_memory_bytes", ()]
