"""A kernel in memory that refuses what the real one refuses, with the same numbers. For tests, and for planning.

It passes the same contract suite as :class:`tc_core.netlink.NetlinkKernel`. Failures can be had on order: see
:meth:`FakeKernel.fail_at`. Time does not pass in it: what is queued in a class is what a test says, reading by reading.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from tc_core.handles import ROOT, Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddQdisc,
    Change,
    ChangeClass,
    ChangeQdisc,
    Counters,
    DeleteClass,
    DeleteFilter,
    DeleteQdisc,
    ReplaceFilter,
    SetLink,
    interface_not_found,
    refused,
)
from tc_core.model import (
    BpfFilter,
    Filter,
    FqCodel,
    FwFilter,
    HtbClass,
    HtbQdisc,
    LeafQdisc,
    Link,
    Observed,
    OtherQdisc,
    OurFilter,
    Qdisc,
)
from tc_core.stats import ClassStats

DEFAULT_QDISC = OtherQdisc(Handle(0), ROOT, "noqueue")
"""What the kernel puts on a virtual interface by itself."""


class FakeKernel:
    """Interfaces with traffic control, in memory. ``applied`` lists every change that was made, in order."""

    def __init__(self, *interfaces: str, default_route: str | None = None) -> None:
        self._default_route = default_route
        self._interfaces = {name: Observed(Link(name), (DEFAULT_QDISC,)) for name in interfaces}
        self._backlogs: dict[Handle, list[int]] = {}
        self._sent: dict[Handle, ClassStats] = {}
        self._faults: dict[int, int] = {}
        self._asked = 0
        self.applied: list[Change] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    # --- on order ------------------------------------------------------------------------------------------------

    def put(self, observed: Observed) -> None:
        """Let an interface be as given, as if others had made it so."""
        self._interfaces[observed.link.name] = observed

    def fail_at(self, position: int, code: int = errno.ENOBUFS) -> None:
        """Refuse the change at ``position`` (0 is the next one), once, with this errno and without effect."""
        self._faults[self._asked + position] = code

    def queue(self, handle: Handle, *backlogs: int) -> None:
        """What a class has queued, in bytes, at each of the next readings; the last stays."""
        self._backlogs[handle] = list(backlogs)

    def count(self, handle: Handle, stats: ClassStats) -> None:
        """What a class has counted so far."""
        self._sent[handle] = stats

    # --- Kernel --------------------------------------------------------------------------------------------------

    def observe(self, interface: str) -> Observed:
        """What is there now."""
        if interface not in self._interfaces:
            raise interface_not_found(interface, self._interfaces)
        return self._interfaces[interface]

    def counters(self, interface: str) -> Counters:
        """The counters that a test has set; classes without any are at zero."""
        return {c.handle: self._read(c.handle) for c in self.observe(interface).classes}

    def _read(self, handle: Handle) -> ClassStats:
        stats = self._sent.get(handle, ClassStats())
        readings = self._backlogs.get(handle)
        if readings:
            backlog = readings.pop(0) if len(readings) > 1 else readings[0]
            stats = replace(stats, backlog_bytes=backlog, backlog_packets=-(-backlog // 1514))
        return stats

    def default_route_interface(self) -> str | None:
        """As given when this kernel was made."""
        return self._default_route

    def apply(self, interface: str, change: Change) -> None:
        """Make one change, or refuse it as the kernel would."""
        state = self.observe(interface)
        position, self._asked = self._asked, self._asked + 1
        if (code := self._faults.pop(position, None)) is not None:
            raise refused(change.command(interface), code)
        try:
            self._interfaces[interface] = _after(state, change)
        except OSError as error:
            raise refused(change.command(interface), error.errno or errno.EIO) from None
        self.applied.append(change)


def _after(state: Observed, change: Change) -> Observed:
    """The state after a change. Raises OSError with the errno of a refusal."""
    match change:
        case AddQdisc(qdisc):
            return _add_qdisc(state, qdisc)
        case ChangeQdisc(qdisc):
            return _change_qdisc(state, qdisc)
        case DeleteQdisc(qdisc):
            return _delete_qdisc(state, qdisc)
        case AddClass(traffic_class):
            return _add_class(state, traffic_class)
        case ChangeClass(traffic_class):
            return _change_class(state, traffic_class)
        case DeleteClass(traffic_class):
            return _delete_class(state, traffic_class)
        case AddFilter(wanted):
            return _put_filter(state, wanted, exclusive=True)
        case ReplaceFilter(wanted):
            return _put_filter(state, wanted, exclusive=False)
        case DeleteFilter(existing):
            return _delete_filter(state, existing)
        case SetLink():
            return _set_link(state, change)


def _no(code: int) -> OSError:
    return OSError(code, "")


def _root_of(state: Observed) -> HtbQdisc:
    if not isinstance(state.root, HtbQdisc):
        raise _no(errno.ENOENT)
    return state.root


# --- qdiscs (net/sched/sch_api.c) ------------------------------------------------------------------------------------


def _add_qdisc(state: Observed, qdisc: HtbQdisc | LeafQdisc) -> Observed:
    kept = tuple(q for q in state.qdiscs if not (isinstance(q, OtherQdisc) and q.is_default))
    if qdisc.parent != ROOT and state.class_named(qdisc.parent) is None:
        raise _no(errno.ENOENT)
    if any(q.handle == qdisc.handle or q.parent == qdisc.parent for q in kept):
        raise _no(errno.EEXIST)
    return replace(state, qdiscs=(*kept, qdisc))


def _change_qdisc(state: Observed, qdisc: LeafQdisc) -> Observed:
    current = state.leaf_of(qdisc.parent)
    if current is None:
        raise _no(errno.ENOENT)
    if not qdisc.can_become(current):
        raise _no(errno.EINVAL)
    if isinstance(qdisc, FqCodel) and isinstance(current, FqCodel):
        qdisc = replace(qdisc, flows=current.flows)
    return replace(state, qdiscs=tuple(qdisc if q is current else q for q in state.qdiscs))


def _delete_qdisc(state: Observed, qdisc: Qdisc) -> Observed:
    current = next((q for q in state.qdiscs if q.parent == qdisc.parent), None)
    if current is None and qdisc.parent != ROOT and state.class_named(qdisc.parent) is None:
        raise _no(errno.ENOENT)
    # Where we see no qdisc the kernel has one of its own, hidden or with handle 0: so the handle is what is wrong.
    if current is None or current.handle != qdisc.handle:
        raise _no(errno.EINVAL)
    if current.parent == ROOT:
        return Observed(state.link, (DEFAULT_QDISC,))
    return replace(state, qdiscs=tuple(q for q in state.qdiscs if q is not current))


# --- classes (net/sched/sch_htb.c) -----------------------------------------------------------------------------------


def _add_class(state: Observed, traffic_class: HtbClass) -> Observed:
    root = _root_of(state)
    if state.class_named(traffic_class.handle):
        raise _no(errno.EEXIST)
    if traffic_class.handle.major != root.handle.major or not traffic_class.rate.bytes_per_second:
        raise _no(errno.EINVAL)
    parent = state.class_named(traffic_class.parent)
    # HTB takes a parent that it does not know for "no parent".
    made = replace(traffic_class, parent=parent.handle if parent else root.handle, is_inner=False)
    others = tuple(replace(c, is_inner=True) if c is parent else c for c in state.classes)
    return replace(state, classes=(*others, made))


def _change_class(state: Observed, traffic_class: HtbClass) -> Observed:
    _root_of(state)
    current = state.class_named(traffic_class.handle)
    if current is None:
        raise _no(errno.ENOENT)
    made = replace(traffic_class, parent=current.parent, is_inner=current.is_inner)
    if current.is_inner:
        made = replace(made, prio=current.prio, quantum=current.quantum)
    return replace(state, classes=tuple(made if c is current else c for c in state.classes))


def _delete_class(state: Observed, traffic_class: HtbClass) -> Observed:
    _root_of(state)
    handle = traffic_class.handle
    current = state.class_named(handle)
    if current is None:
        raise _no(errno.ENOENT)
    bound = any(isinstance(f, FwFilter) and f.target == handle for f in state.filters)
    if bound or any(c.parent == handle for c in state.classes):
        raise _no(errno.EBUSY)
    remaining = [c for c in state.classes if c is not current]
    with_children = {c.parent for c in remaining}
    return replace(
        state,
        classes=tuple(replace(c, is_inner=c.handle in with_children) for c in remaining),
        qdiscs=tuple(q for q in state.qdiscs if q.parent != handle),
    )


# --- filters (net/sched/cls_api.c, cls_fw.c, cls_bpf.c) --------------------------------------------------------------


def _put_filter(state: Observed, wanted: OurFilter, *, exclusive: bool) -> Observed:
    if _root_of(state).handle != wanted.parent:
        raise _no(errno.EINVAL)
    same_prio = [f for f in state.filters if f.prio == wanted.prio]
    if any(f.kind != wanted.kind or _mask(f) != _mask(wanted) for f in same_prio):
        raise _no(errno.EINVAL)
    current = next((f for f in same_prio if f.key == wanted.key), None)
    if current is not None and exclusive:
        raise _no(errno.EEXIST)
    read_back = replace(wanted, class_ids=None, text="") if isinstance(wanted, BpfFilter) else wanted
    return replace(state, filters=(*_without(state.filters, current), read_back))


def _mask(existing: Filter) -> int | None:
    return existing.mark.mask if isinstance(existing, FwFilter) else None


def _without(filters: Iterable[Filter], unwanted: Filter | None) -> tuple[Filter, ...]:
    return tuple(f for f in filters if f is not unwanted)


def _delete_filter(state: Observed, existing: Filter) -> Observed:
    _root_of(state)
    current = next((f for f in state.filters if f.key == existing.key), None)
    if current is None:
        raise _no(errno.ENOENT)
    return replace(state, filters=_without(state.filters, current))


def _set_link(state: Observed, change: SetLink) -> Observed:
    link = state.link
    if change.gso_max_size is not None:
        if change.gso_max_size > link.tso_max_size:
            raise _no(errno.EINVAL)
        link = replace(link, gso_max_size=change.gso_max_size)
    if change.tx_queue_len is not None:
        link = replace(link, tx_queue_len=change.tx_queue_len)
    return replace(state, link=link)
