"""The kernel's counters of classes as metrics. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from daemon.prometheus_text import MetricFamily, counter, gauge
from datapath.shaping import ClassSnapshot


def class_families(
    prefix: str, verb: str, rows: Sequence[tuple[tuple[str, ...], ClassSnapshot]], labels: tuple[str, ...] = ()
) -> Iterator[MetricFamily]:
    """The kernel's counters of each class; ``verb`` is sent or received. ``rows`` have the values of ``labels``."""
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
    for make, metrics in ((counter, counters), (gauge, gauges)):
        for name, text, value in metrics:
            family = make(f"{prefix}_{name}", text, *labels, "class")
            for values, snapshot in rows:
                family.add(value(snapshot), *values, snapshot.name)
            yield family
