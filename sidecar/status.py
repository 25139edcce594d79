"""The ``/classes`` document: limits, counters and connections of every class, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sidecar.shaping import ClassSnapshot
from sidecar.tallies import ClassConnections
from tc_core.units import Rate


def classes_document(
    interface: str, total: Rate, snapshots: Iterable[ClassSnapshot], connections: Mapping[str, ClassConnections]
) -> dict[str, object]:
    """All classes in policy order, the default class last; every key names its unit."""
    return {
        "interface": interface,
        "total_bits_per_second": total.bits_per_second,
        "classes": [_class(s, connections.get(s.name, ClassConnections())) for s in snapshots],
    }


def _class(s: ClassSnapshot, connections: ClassConnections) -> dict[str, object]:
    return {
        "name": s.name,
        "id": s.class_id,
        "handle": str(s.handle),
        "rate_bits_per_second": s.rate.bits_per_second,
        "ceil_bits_per_second": s.ceil.bits_per_second,
        "priority": s.priority,
        "bytes": s.stats.bytes,
        "packets": s.stats.packets,
        "drops": s.stats.drops,
        "overlimits": s.stats.overlimits,
        "backlog_bytes": s.stats.backlog_bytes,
        "backlog_packets": s.stats.backlog_packets,
        "current_rate_bits_per_second": s.current_rate.bits_per_second,
        "peak_rate_bits_per_second": s.peak_rate.bits_per_second,
        "connections": {
            "active": connections.active,
            "total": connections.total,
            "by_protocol": dict(connections.by_protocol),
        },
    }
