"""A kernel in memory that refuses what the real one refuses, with the same numbers. For tests, and for planning.

It passes the same contract suite as :class:`tc_core.rtnetlink.kernel.NetlinkKernel`. Failures can be had on order: see
:meth:`FakeKernel.fail_at`. Time does not pass in it: what is queued in a class is what a test says, reading by reading.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Self

from tc_core.fake.qdiscs import add_qdisc, change_qdisc, default_qdisc, delete_qdisc, no, without_queue
from tc_core.handles import Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddLink,
    AddQdisc,
    Change,
    ChangeClass,
    ChangeQdisc,
    Counters,
    DeleteClass,
    DeleteFilter,
    DeleteLink,
    DeleteQdisc,
    ReplaceFilter,
    SetLink,
    interface_not_found,
    refused,
)
from tc_core.model import (
    EGRESS_HOOK,
    ETH_P_ALL,
    INGRESS_HOOK,
    BpfFilter,
    Clsact,
    Filter,
    FwFilter,
    HtbClass,
    HtbQdisc,
    Link,
    Observed,
    OtherFilter,
    OurFilter,
    RedirectFilter,
)
from tc_core.stats import ClassStats

_QUEUE_LENGTHS: Final[Mapping[str, int]] = {"dummy": 1000, "ifb": 32}
"""The virtual interfaces that can be made here, each with its tx_queue_len in packets (drivers/net/)."""


class FakeKernel:
    """Interfaces with traffic control, in memory. ``applied`` lists every change that was made, in order."""

    def __init__(self, *interfaces: str, default_route: str | None = None) -> None:
        self._default_route = default_route
        untouched = [Observed(Link(name)) for name in interfaces]
        self._interfaces = {o.link.name: replace(o, qdiscs=(default_qdisc(o),)) for o in untouched}
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
        """What a class or qdisc has queued, in bytes, at each of the next readings; the last stays."""
        self._backlogs[handle] = list(backlogs)

    def count(self, handle: Handle, stats: ClassStats) -> None:
        """What a class or qdisc has counted so far."""
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

    def qdisc_counters(self, interface: str) -> Counters:
        """The counters that a test has set; qdiscs without any are at zero."""
        return {q.handle: self._read(q.handle) for q in self.observe(interface).qdiscs if q.handle.major}

    def interfaces(self) -> Mapping[str, Link]:
        """Every interface by name."""
        return {name: state.link for name, state in self._interfaces.items()}

    def default_route_interface(self) -> str | None:
        """As given when this kernel was made."""
        return self._default_route

    def apply(self, interface: str, change: Change) -> None:
        """Make one change, or refuse it as the kernel would."""
        if not isinstance(change, AddLink):
            self.observe(interface)
        position, self._asked = self._asked, self._asked + 1
        if (code := self._faults.pop(position, None)) is not None:
            raise refused(change.command(interface), code)
        try:
            self._make(interface, change)
        except OSError as error:
            raise refused(change.command(interface), error.errno or errno.EIO) from None
        self.applied.append(change)

    def _make(self, interface: str, change: Change) -> None:
        match change:
            case AddLink():
                self._add_link(interface, change)
            case DeleteLink():
                self._delete_link(interface)
            case AddFilter(RedirectFilter(device=device)) | ReplaceFilter(RedirectFilter(device=device)) if (
                device not in self._interfaces
            ):
                raise no(errno.ENODEV)
            case _:
                self._interfaces[interface] = _after(self._interfaces[interface], change)

    def _add_link(self, interface: str, change: AddLink) -> None:
        if interface in self._interfaces:
            raise no(errno.EEXIST)
        if change.kind not in _QUEUE_LENGTHS:
            raise no(errno.EOPNOTSUPP)
        link = Link(interface, kind=change.kind, alias=change.alias, tx_queue_len=_QUEUE_LENGTHS[change.kind])
        made = Observed(link)
        self._interfaces[interface] = replace(made, qdiscs=(default_qdisc(made),))

    def _delete_link(self, interface: str) -> None:
        if not self._interfaces[interface].link.kind:
            raise no(errno.EOPNOTSUPP)
        del self._interfaces[interface]
        for name, state in self._interfaces.items():
            self._interfaces[name] = replace(state, ingress=tuple(_without_device(f, interface) for f in state.ingress))


def _without_device(existing: Filter, device: str) -> Filter:
    """A filter after the device to which it may redirect has gone."""
    if isinstance(existing, RedirectFilter) and existing.device == device:
        return replace(existing, device="")
    return existing


def _after(state: Observed, change: Change) -> Observed:
    """The state after a change. Raises OSError with the errno of a refusal."""
    match change:
        case AddQdisc(qdisc):
            return add_qdisc(state, qdisc)
        case ChangeQdisc(qdisc):
            return change_qdisc(state, qdisc)
        case DeleteQdisc(qdisc):
            return delete_qdisc(state, qdisc)
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
        case AddLink() | DeleteLink():
            raise TypeError(f"{change} is about the interfaces, not the state of one")


def _root_of(state: Observed) -> HtbQdisc:
    if not isinstance(state.root, HtbQdisc):
        raise no(errno.ENOENT)
    return state.root


# --- classes (net/sched/sch_htb.c) -----------------------------------------------------------------------------------


def _add_class(state: Observed, traffic_class: HtbClass) -> Observed:
    root = _root_of(state)
    if state.class_named(traffic_class.handle):
        raise no(errno.EEXIST)
    if traffic_class.handle.major != root.handle.major or not traffic_class.rate.bytes_per_second:
        raise no(errno.EINVAL)
    parent = state.class_named(traffic_class.parent)
    # HTB takes a parent that it does not know for "no parent".
    made = replace(traffic_class, parent=parent.handle if parent else root.handle, is_inner=False)
    others = tuple(replace(c, is_inner=True) if c is parent else c for c in state.classes)
    return replace(state, classes=(*others, made))


def _change_class(state: Observed, traffic_class: HtbClass) -> Observed:
    _root_of(state)
    current = state.class_named(traffic_class.handle)
    if current is None:
        raise no(errno.ENOENT)
    made = replace(traffic_class, parent=current.parent, is_inner=current.is_inner)
    if current.is_inner:
        made = replace(made, prio=current.prio, quantum=current.quantum)
    return replace(state, classes=tuple(made if c is current else c for c in state.classes))


def _delete_class(state: Observed, traffic_class: HtbClass) -> Observed:
    _root_of(state)
    handle = traffic_class.handle
    current = state.class_named(handle)
    if current is None:
        raise no(errno.ENOENT)
    bound = any(isinstance(f, FwFilter) and f.target == handle for f in state.filters)
    if bound or any(c.parent == handle for c in state.classes):
        raise no(errno.EBUSY)
    remaining = [c for c in state.classes if c is not current]
    with_children = {c.parent for c in remaining}
    return replace(
        without_queue(state, handle),
        classes=tuple(replace(c, is_inner=c.handle in with_children) for c in remaining),
    )


# --- filters (net/sched/cls_api.c, cls_fw.c, cls_bpf.c) --------------------------------------------------------------


def _put_filter(state: Observed, wanted: OurFilter, *, exclusive: bool) -> Observed:
    existing = _filters_at(state, wanted.parent)
    same_prio = [f for f in existing if f.prio == wanted.prio]
    if any(f.kind != wanted.kind or _mask(f) != _mask(wanted) for f in same_prio):
        raise no(errno.EINVAL)
    current = next((f for f in same_prio if f.key == wanted.key), None)
    if current is not None and exclusive:
        raise no(errno.EEXIST)
    return _with_filters(state, wanted.parent, (*_without(existing, current), _read_back(wanted)))


def _read_back(wanted: OurFilter) -> Filter:
    """What the kernel tells of a filter."""
    if isinstance(wanted, RedirectFilter):
        return replace(wanted, class_ids=None)
    if wanted.parent in (INGRESS_HOOK, EGRESS_HOOK):
        return OtherFilter(wanted.parent, wanted.kind, wanted.prio, ETH_P_ALL)
    if isinstance(wanted, BpfFilter):
        return replace(wanted, class_ids=None, text="", rules=(), instructions=())
    return wanted


def _filters_at(state: Observed, parent: Handle) -> tuple[Filter, ...]:
    """The filters at a hook of clsact or on a qdisc; raises where there can be none."""
    if parent == INGRESS_HOOK and state.ingress_qdisc is not None:
        return state.ingress
    if parent == EGRESS_HOOK and isinstance(state.ingress_qdisc, Clsact):
        return state.egress
    if not any(q.handle == parent for q in state.qdiscs):
        raise no(errno.EINVAL)
    if not any(q.handle == parent for q in state.filtering):
        raise no(errno.EOPNOTSUPP)
    return tuple(f for f in state.filters if f.parent == parent)


def _with_filters(state: Observed, parent: Handle, filters: tuple[Filter, ...]) -> Observed:
    if parent == INGRESS_HOOK:
        return replace(state, ingress=filters)
    if parent == EGRESS_HOOK:
        return replace(state, egress=filters)
    return replace(state, filters=(*(f for f in state.filters if f.parent != parent), *filters))


def _mask(existing: Filter) -> int | None:
    return existing.mark.mask if isinstance(existing, FwFilter) else None


def _without(filters: Iterable[Filter], unwanted: Filter | None) -> tuple[Filter, ...]:
    return tuple(f for f in filters if f is not unwanted)


def _delete_filter(state: Observed, existing: Filter) -> Observed:
    filters = _filters_at(state, existing.parent)
    current = next((f for f in filters if f.key == existing.key), None)
    if current is None:
        raise no(errno.ENOENT)
    return _with_filters(state, existing.parent, _without(filters, current))


def _set_link(state: Observed, change: SetLink) -> Observed:
    link = state.link
    if change.gso_max_size is not None:
        if change.gso_max_size > link.tso_max_size:
            raise no(errno.EINVAL)
        link = replace(link, gso_max_size=change.gso_max_size)
    if change.tx_queue_len is not None:
        link = replace(link, tx_queue_len=change.tx_queue_len)
    if change.up is not None:
        link = replace(link, is_up=change.up)
    return replace(state, link=link)
