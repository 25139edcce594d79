"""The documents of ``/classes`` (:mod:`daemon.documents`), from the state of a data plane. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daemon.documents.classes import Class, Classes, ConnectionCounts, ReceivedClasses
from datapath.shaping import ClassSnapshot, Received
from traffic_policy.settings import Datapath
from traffic_policy.units import Rate


@dataclass(frozen=True, slots=True)
class Process:
    """The process's own part of ``/classes``.

    ``read_at``: when the counters were read, in seconds of a monotonic clock; ``uptime`` is in seconds.
    """

    datapath: Datapath
    uptime: float
    workers: int
    read_at: float | None


def classes_document(
    interface: str,
    total: Rate,
    snapshots: Iterable[ClassSnapshot],
    connections: Callable[[str], ConnectionCounts],
    process: Process,
    received: Received | None = None,
) -> Classes:
    """Limits, counters and connections of all classes in policy order, the default class last."""
    return Classes(
        interface=interface,
        total_bits_per_second=total.bits_per_second,
        datapath=process.datapath.value,
        workers=process.workers,
        uptime_seconds=round(process.uptime, 3),
        read_at_seconds=process.read_at,
        classes=tuple(class_document(s, connections(s.name)) for s in snapshots),
        received=None if received is None else received_document(received),
    )


def received_document(received: Received) -> ReceivedClasses:
    """What arrives, and its classes."""
    return ReceivedClasses(
        device=received.device,
        names_told_by=received.ingress_classifier,
        total_bits_per_second=received.total.bits_per_second,
        classes=tuple(map(class_document, received.classes)),
    )


def class_document(s: ClassSnapshot, connections: ConnectionCounts | None = None) -> Class:
    """Limits and counters of one class."""
    return Class(
        name=s.name,
        id=s.class_id,
        handle=str(s.handle),
        rate_bits_per_second=s.rate.bits_per_second,
        ceil_bits_per_second=s.ceil.bits_per_second,
        priority=s.priority,
        bytes=s.stats.bytes,
        packets=s.stats.packets,
        drops=s.stats.drops,
        overlimits=s.stats.overlimits,
        lended=s.stats.lended,
        borrowed=s.stats.borrowed,
        backlog_bytes=s.stats.backlog_bytes,
        backlog_packets=s.stats.backlog_packets,
        current_rate_bits_per_second=s.current_rate.bits_per_second,
        peak_rate_bits_per_second=s.peak_rate.bits_per_second,
        connections=connections,
    )
