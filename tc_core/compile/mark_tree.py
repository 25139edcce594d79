"""Compiles a policy to the HTB tree of an interface. Pure: the same policy, features and ids give the same tree.

::

    1:            HTB, unclassified packets go to 1:1ff
    └─ 1:1        rate = ceil = the total
       ├─ 1:101   class id 1, with its queue 101:
       ├─ 1:102   class id 2, with its queue 102:
       └─ 1:1ff   the default class, with its queue 1ff:

Every number is set by us. HTB's own choices are wrong at both ends of the range: an automatic quantum is cut to
1,000-200,000 bytes, so that large classes share equally instead of by rate, and an automatic burst is too small for a
GSO packet at high rates (tc-htb(8)).
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Final

from tc_core.bpf.mark_classifier import mark_filter
from tc_core.compile.queues import GSO_PACKET, PACKET, SMALL_GSO, queue_for, wants_small_gso
from tc_core.handles import Handle
from tc_core.model import ClassFilter, FwFilter, HtbClass, HtbQdisc, TrafficTree
from tc_core.probe.capability import Features, MarkClassifier
from traffic_policy.marks import DEFAULT_CLASS_ID, ClassIds, class_mark
from traffic_policy.policy import ResolvedClass, TrafficPolicy
from traffic_policy.units import ByteCount, Rate

ROOT_HANDLE: Final = Handle(1)
INNER_HANDLE: Final = Handle(1, 1)
LEAF_BASE: Final = 0x100
"""Added to a class id to make its minor number and its queue's major: clear of 1:1, and of others' 10: and 20:."""
DEFAULT_MINOR: Final = LEAF_BASE | DEFAULT_CLASS_ID

_BURST_FLOOR: Final = 2 * PACKET
"""Bytes. Less would make HTB wait for its timer between any two packets."""
_BURST_SECONDS: Final = 0.001
"""A burst lasts at least this long at the class's rate, so that a timer that is late by as much costs no bandwidth."""
_BURST_CAP_SECONDS: Final = 0.020
"""A GSO packet's worth of burst is granted only where it lasts no longer than this: at 1 Mbit/s it would be half a
second of line rate."""

_QUANTUM_SECONDS: Final = 0.010
"""What a class of the same priority may send in its turn, as time at its own rate: borrowed bandwidth is shared in
proportion to the rates, and a round of turns takes at most this long at the total."""
_QUANTUM_CAP: Final = 16 * 2**20
"""Bytes; keeps HTB's 32-bit deficit far from overflow. Reached at 13 Gbit/s."""


def leaf_handle(class_id: int) -> Handle:
    """The HTB class of a class id: ``1:101`` for id 1, ``1:1ff`` for the default class."""
    return Handle(ROOT_HANDLE.major, LEAF_BASE | class_id)


def queue_handle(class_id: int) -> Handle:
    """The leaf qdisc of a class id: ``101:`` for id 1."""
    return Handle(LEAF_BASE | class_id)


@lru_cache(maxsize=4)  # all Pods of a workload have the same policy, and large ones take megabytes
def compile_policy(policy: TrafficPolicy, features: Features, ids: ClassIds) -> TrafficTree:
    """The tree for a checked policy whose classes are told apart by marks (:mod:`traffic_policy.marks`).

    ``ids`` must name every class of the policy. Raises :class:`MissingFeatureError` when the kernel cannot shape, has
    no filter that reads marks, or lacks a queue that the policy asks for.
    """
    features.require_shaping()
    filters = _mark_filters(features.classifier, [ids[c.name] for c in policy.classes])
    return htb_tree(policy, features, ids, filters)


def htb_tree(
    policy: TrafficPolicy,
    features: Features,
    ids: ClassIds,
    filters: tuple[ClassFilter, ...],
    *,
    arriving: bool = False,
) -> TrafficTree:
    """The tree for a checked policy, with these filters to select its classes.

    ``arriving`` is for an ifb: others have made the packets, so that queues must have room for large ones.
    """
    features.require_shaping()
    resolved = policy.resolved()
    total = whole_bytes(policy.total)
    leaves = tuple(
        queue_for(c, queue_handle(ids[c.name]), leaf_handle(ids[c.name]), features, arriving=arriving) for c in resolved
    )
    waits = (wants_small_gso(leaf, c.ceil) for leaf, c in zip(leaves, resolved, strict=True))
    small = not arriving and features.gso_max_size.available and any(waits)
    return TrafficTree(
        root=HtbQdisc(ROOT_HANDLE, DEFAULT_MINOR),
        inner=HtbClass(
            INNER_HANDLE, ROOT_HANDLE, total, total, burst(total), burst(total), 0, quantum(total), is_inner=True
        ),
        classes=tuple(_leaf_class(c, ids[c.name]) for c in resolved),
        leaves=leaves,
        filters=filters,
        gso_max_size=SMALL_GSO if small else None,
        names=MappingProxyType({INNER_HANDLE: "total", **{leaf_handle(ids[c.name]): c.name for c in resolved}}),
    )


def whole_bytes(rate: Rate) -> Rate:
    """The rate as the kernel will say it back: it counts whole bytes per second."""
    return Rate.from_bytes_per_second(rate.bytes_per_second)


def burst(rate: Rate) -> ByteCount:
    """How much may go at line rate after a pause, for a class of this rate.

    A millisecond's worth, and a GSO packet where the rate can bear one, but never less than two packets.
    """
    gso = min(GSO_PACKET, rate.bytes_in(_BURST_CAP_SECONDS))
    return ByteCount(max(_BURST_FLOOR, gso, rate.bytes_in(_BURST_SECONDS)))


def quantum(rate: Rate) -> ByteCount:
    """What a class may send before it is the next one's turn; in proportion to the rate from 1.2 Mbit/s on."""
    return ByteCount(min(_QUANTUM_CAP, max(PACKET, rate.bytes_in(_QUANTUM_SECONDS))))


def _leaf_class(resolved: ResolvedClass, class_id: int) -> HtbClass:
    rate, ceil = whole_bytes(resolved.rate), whole_bytes(resolved.ceil)
    return HtbClass(
        handle=leaf_handle(class_id),
        parent=INNER_HANDLE,
        rate=rate,
        ceil=ceil,
        burst=resolved.burst or burst(rate),
        cburst=resolved.burst or burst(ceil),
        prio=resolved.priority,
        quantum=quantum(rate),
    )


def _mark_filters(classifier: MarkClassifier, class_ids: list[int]) -> tuple[ClassFilter, ...]:
    """What selects the classes. The default class needs no filter: it takes what none selects."""
    if classifier is MarkClassifier.FW:
        return tuple(FwFilter(ROOT_HANDLE, class_mark(i), leaf_handle(i)) for i in class_ids)
    return (mark_filter(ROOT_HANDLE, class_ids),) if class_ids else ()
