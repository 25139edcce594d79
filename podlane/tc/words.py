"""A tree of classes as text: the table of ``podlane tc show``, and the same as data. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from podlane.tc.tree import NOTHING, Arrivals, Node, Side, TreeOwner
from podlane.text_output import table
from tc_core.bpf.packet_program import PACKET_PRIO
from tc_core.handles import Handle
from tc_core.model import (
    Bfifo,
    BpfFilter,
    Cake,
    Filter,
    FqCodel,
    FwFilter,
    Netem,
    OtherFilter,
    Qdisc,
    RedirectFilter,
    Sfq,
)
from tc_core.qdiscs import tc_percent, tc_time
from traffic_policy.describe import traffic_words
from traffic_policy.policy import DEFAULT_CLASS, TrafficPolicy
from traffic_policy.units import ByteCount

_COLUMNS: Final = ("", "guaranteed", "at most", "prio", "sent", "packets", "dropped", "waiting", "now", "queue")
_LEFT: Final = frozenset({0, 9})
"""Columns of text; numbers are right-aligned."""

OWNERS: Final = {
    TreeOwner.PODLANE: "Podlane's",
    TreeOwner.KERNEL: "the kernel's own choice: nothing is shaped",
    TreeOwner.OTHER: "not Podlane's",
}


def tree_lines(side: Side) -> Iterator[str]:
    """The tree as a table, one line for each qdisc and class; empty columns are omitted."""
    if side.root is None:
        return
    rows = [_COLUMNS, *(_row(prefix, node) for prefix, node in _drawn(side.root, "", ""))]
    used = [c for c in range(len(_COLUMNS)) if c == 0 or any(row[c] for row in rows[1:])]
    left = {place for place, column in enumerate(used) if column in _LEFT}
    lines = table([[row[c] for c in used] for row in rows], left)
    yield from islice(lines, len(used) == 1, None)  # no heading for the names alone


def _drawn(node: Node, first: str, rest: str) -> Iterator[tuple[str, Node]]:
    """Each node with the lines that connect it."""
    yield first, node
    for number, child in enumerate(node.children, 1):
        last = number == len(node.children)
        yield from _drawn(child, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}")


def _row(prefix: str, node: Node) -> tuple[str, ...]:
    words = [node.name] if node.name else []
    words += [node.kind] if node.what == "qdisc" else [f"band {node.handle.minor}"] if node.what == "band" else []
    # A default qdisc of the kernel has no meaningful handle.
    words += [str(node.handle)] if node.handle.major else []
    stats = node.stats or NOTHING
    counted = node.stats is not None
    return (
        f"{prefix}{' '.join(words)}",
        node.guaranteed.human if node.guaranteed else "",
        node.ceiling.human if node.ceiling else "",
        str(node.priority) if node.priority is not None else "",
        ByteCount(stats.bytes).human if counted else "",
        str(stats.packets) if counted else "",
        str(stats.drops) if counted else "",
        ByteCount(stats.backlog_bytes).human if counted else "",
        node.now.human if node.now is not None else "",
        queue_words(node.queue) if node.queue else "",
    )


def queue_words(qdisc: Qdisc) -> str:
    """The queue of a class with its main parameter: ``fifo of 50.0 KiB``."""
    match qdisc:
        case Bfifo():
            return f"fifo of {qdisc.limit.human}"
        case FqCodel():
            # The kernel counts in units of 1,024 ns, so that 5 ms are read back as a little less.
            return f"fq_codel, target {qdisc.target.nanoseconds / 10**6:.3g}ms"
        case Sfq():
            return f"sfq of {qdisc.limit} packets"
        case Cake():
            return "cake" if qdisc.bandwidth is None else f"cake at {qdisc.bandwidth.human}"
        case Netem():
            return f"netem: {_netem_words(qdisc)}"
        case _:
            return qdisc.kind


def _netem_words(qdisc: Netem) -> str:
    words = []
    if qdisc.delay.nanoseconds or qdisc.jitter.nanoseconds:
        jitter = f" ± {tc_time(qdisc.jitter)}" if qdisc.jitter.nanoseconds else ""
        words.append(f"{tc_time(qdisc.delay)}{jitter} later")
    chances = ((qdisc.loss_ppm, "lost"), (qdisc.duplicate_ppm, "sent twice"), (qdisc.corrupt_ppm, "corrupted"))
    words += [f"{tc_percent(ppm)} {what}" for ppm, what in chances if ppm]
    return ", ".join(words) or "as it is"


# --- which traffic ---------------------------------------------------------------------------------------------------


def filter_lines(side: Side, policy: TrafficPolicy | None, *, arriving: bool = False) -> Iterator[str]:
    """The filters in the order of evaluation.

    ``policy`` is the recorded one of this side, without which the programs of packet filters cannot be described.
    """
    ours = side.owner is TreeOwner.PODLANE
    packets_done = False
    for existing in sorted(side.filters, key=lambda f: f.prio):
        if _reads_packets(existing) and policy is not None:
            if not packets_done:
                packets_done = True
                yield from rule_lines(policy, arriving=arriving)
            continue
        yield filter_words(existing, side.names, ours=ours)
    if side.default is not None:
        yield f"everything else → {_named(side.default, side.names)}"
    elif side.root is not None and side.root.kind == "htb":
        yield "everything else → at full speed, past all classes"


def rule_lines(policy: TrafficPolicy, *, arriving: bool) -> Iterator[str]:
    """The matches of a policy in order. Of received traffic, classes without a limit leave it to the default one."""
    for traffic_class in policy.classes:
        target = DEFAULT_CLASS if arriving and traffic_class.ingress is None else traffic_class.name
        for match in traffic_class.match:
            yield f"{traffic_words(match)} → {target}"


def filter_words(existing: Filter, names: Mapping[Handle, str], *, ours: bool = True) -> str:
    """The match of one filter and its target, as far as the filter alone shows them.

    ``ours``: whether it is part of a tree of Podlane's, whose programs are known.
    """
    match existing:
        case FwFilter():
            return f"mark {existing.mark} → {_named(existing.target, names)}"
        case RedirectFilter():
            return f"everything → {existing.device or 'a device that is gone: it is lost'}"
        case BpfFilter() if not ours:
            return f"a BPF program at prio {existing.prio} → not Podlane's, not looked into"
        case BpfFilter():
            what = "packets (its policy is not recorded)" if _reads_packets(existing) else "the mark (bits 24-31)"
            return f"BPF program {existing.fingerprint} chooses the class by {what}"
        case OtherFilter():
            return f"{existing.kind} at prio {existing.prio} → not Podlane's, not looked into"


def _reads_packets(existing: Filter) -> bool:
    return isinstance(existing, BpfFilter) and existing.prio >= PACKET_PRIO


def _named(handle: Handle, names: Mapping[Handle, str]) -> str:
    name = names.get(handle)
    return f"{name} ({handle})" if name else str(handle)


def chosen_by_marks(filters: Iterable[Filter]) -> bool:
    """Whether these are the filters of a sidecar's tree, which match the mark; also if there are none."""
    return not any(_reads_packets(existing) for existing in filters)


# --- as data ---------------------------------------------------------------------------------------------------------


def side_document(side: Side, policy: TrafficPolicy | None, *, arriving: bool = False) -> dict[str, Any]:
    """One direction as JSON data. Rates are bits per second, sizes bytes."""
    ours = side.owner is TreeOwner.PODLANE
    return {
        "device": side.device,
        "owner": side.owner.value,
        "tree": None if side.root is None else node_document(side.root),
        "filters": [filter_document(existing, side.names, ours=ours) for existing in side.filters],
        "traffic": list(filter_lines(side, policy, arriving=arriving)),
    }


def node_document(node: Node) -> dict[str, Any]:
    """A qdisc or class as JSON data, with everything below it. Rates are bits per second."""
    return {
        "what": node.what,
        "handle": str(node.handle),
        "kind": node.kind,
        "name": node.name or None,
        "tc": node.tc,
        "guaranteed": node.guaranteed.bits_per_second if node.guaranteed else None,
        "ceiling": node.ceiling.bits_per_second if node.ceiling else None,
        "priority": node.priority,
        "queue": None if node.queue is None else {"kind": node.queue.kind, "tc": str(node.queue)},
        "counters": None if node.stats is None else {k: getattr(node.stats, k) for k in type(node.stats).__slots__},
        "now": node.now.bits_per_second if node.now is not None else None,
        "children": [node_document(child) for child in node.children],
    }


def filter_document(existing: Filter, names: Mapping[Handle, str], *, ours: bool = True) -> dict[str, Any]:
    """One filter as JSON data."""
    target = existing.target if isinstance(existing, FwFilter) else None
    return {
        "kind": existing.kind,
        "priority": existing.prio,
        "tc": str(existing),
        "words": filter_words(existing, names, ours=ours),
        "class": None if target is None else names.get(target, str(target)),
        "ours": ours and not isinstance(existing, OtherFilter),
    }


def arrivals_document(arrivals: Arrivals, policy: TrafficPolicy | None) -> dict[str, Any]:
    """What arrives, as JSON data."""
    return {
        "place": None if arrivals.place is None else arrivals.place.kind,
        "filters": [filter_document(existing, {}) for existing in arrivals.filters],
        "through": None if arrivals.side is None else side_document(arrivals.side, policy, arriving=True),
    }
