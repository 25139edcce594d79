"""An interface as a tree for display: qdiscs, classes and queues, with their counters. Pure.

Any tree can be shown, Podlane's or not. The kernel reports of each qdisc only its parent, which is a class, and classes
only of HTB; the bands of prio and the class of a token bucket exist without being reported. So a qdisc is attached to
its parent class if that is known, else to the qdisc that has this class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tc_core.diff import is_ours
from tc_core.handles import ROOT, Handle
from tc_core.kernel import Counters
from tc_core.model import Cake, Filter, HtbClass, HtbQdisc, LeafQdisc, Observed, Prio, Qdisc, RedirectFilter, Tbf
from tc_core.stats import ClassStats
from traffic_policy.units import Rate

NOTHING: Final = ClassStats()


class TreeOwner(StrEnum):
    """The owner of a tree."""

    PODLANE = "podlane"
    KERNEL = "kernel"
    """The kernel's default for a new interface."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Node:
    """A qdisc or a class, with its children. ``guaranteed``, ``ceiling`` and ``priority`` only if it has them.

    ``name`` is that of the policy, "" if unknown. ``tc`` is the description of tc(8). ``queue`` is where its packets
    wait: the qdisc on a class if that is its only child, or a qdisc itself. ``now`` is its current rate, if measured.
    """

    what: str
    handle: Handle
    kind: str
    tc: str
    name: str = ""
    guaranteed: Rate | None = None
    ceiling: Rate | None = None
    priority: int | None = None
    queue: Qdisc | None = None
    stats: ClassStats | None = None
    now: Rate | None = None
    children: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This node and all below it, from the top."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class TreeReading:
    """One reading of an interface: its tree, its counters, and its current rates if measured."""

    observed: Observed
    counters: Counters
    now: Mapping[Handle, Rate] | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of an interface: ``device`` is the one with the tree, an ifb for received traffic.

    ``default`` is the class, or the band of prio, for traffic that no filter matches.
    """

    device: str
    owner: TreeOwner
    root: Node | None
    filters: tuple[Filter, ...] = ()
    default: Handle | None = None
    names: Mapping[Handle, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The receiving side: the ingress qdisc, its filters, and the ifb that ours redirect to."""

    place: Qdisc | None
    filters: tuple[Filter, ...] = ()
    side: Side | None = None

    @property
    def redirect(self) -> RedirectFilter | None:
        """The filter that redirects received traffic."""
        return next((f for f in self.filters if isinstance(f, RedirectFilter)), None)


def owner_of(observed: Observed) -> TreeOwner:
    """The owner of an interface's root qdisc."""
    if is_ours(observed):
        return TreeOwner.PODLANE
    return TreeOwner.KERNEL if observed.root is None or not observed.root.handle.major else TreeOwner.OTHER


def side_of(reading: TreeReading, names: Mapping[Handle, str] | None = None) -> Side:
    """The tree of the sending side. ``names`` are the policy's, if known."""
    observed, names = reading.observed, names or {}
    root = observed.root
    return Side(
        observed.link.name,
        owner_of(observed),
        _Builder(reading, names).qdisc(root) if root else None,
        observed.filters,
        _default(observed),
        MappingProxyType(dict(names)),
    )


def _default(observed: Observed) -> Handle | None:
    """The class, or the band, for traffic that no filter matches; None if that varies, or there is none."""
    for qdisc in observed.qdiscs:
        match qdisc:
            case HtbQdisc(parent=parent, default_minor=minor) if parent == ROOT and minor:
                return Handle(qdisc.handle.major, minor)
            case Prio(handle=handle, priomap=priomap) if handle.major and len(set(priomap)) == 1:
                return Handle(handle.major, priomap[0] + 1)
    return None


class _Builder:
    """Assembles the tree; each qdisc and class is used once, so that no input can cause a loop."""

    def __init__(self, reading: TreeReading, names: Mapping[Handle, str]) -> None:
        self._reading = reading
        self._names = names
        self._qdiscs = list(reading.observed.qdiscs)
        # The kernel lists classes in the order of a hash table; the order of handles is that of the policy.
        order = list(names)
        known = {handle: place for place, handle in enumerate(order)}
        self._classes = sorted(reading.observed.classes, key=lambda c: (known.get(c.handle, len(order)), c.handle))

    def qdisc(self, qdisc: Qdisc) -> Node:
        """A qdisc with everything below it."""
        self._qdiscs.remove(qdisc)
        bands: list[Node] = []
        if isinstance(qdisc, Prio):
            bands = [self._band(Handle(qdisc.handle.major, number)) for number in range(1, qdisc.bands + 1)]
        # HTB reports the root as the parent of a class whose parent it does not know.
        classes = [self._class(c) for c in self._taken_classes(qdisc.handle)]
        rest = self._below(qdisc)
        children = (*bands, *classes, *rest)
        return Node(
            "qdisc",
            qdisc.handle,
            qdisc.kind,
            str(qdisc),
            self._names.get(qdisc.handle, ""),
            ceiling=_ceiling(qdisc),
            queue=qdisc if isinstance(qdisc, LeafQdisc) and not children else None,
            stats=self._reading.counters.get(qdisc.handle),
            now=self._now(qdisc.handle),
            children=children,
        )

    def _below(self, qdisc: Qdisc) -> list[Node]:
        """The qdiscs on classes of this one that are not known."""
        if not qdisc.handle.major and qdisc.parent != ROOT:
            # The kernel's default qdiscs have no handle: only the one at the root (mq) has others below it.
            return []
        found = [q for q in self._qdiscs if q.parent.major == qdisc.handle.major]
        return [self.qdisc(q) for q in found if q in self._qdiscs]

    def _taken_classes(self, parent: Handle) -> list[HtbClass]:
        taken = [c for c in self._classes if c.parent == parent]
        self._classes = [c for c in self._classes if c.parent != parent]
        return taken

    def _class(self, traffic_class: HtbClass) -> Node:
        handle = traffic_class.handle
        inner = [self._class(c) for c in self._taken_classes(handle)]
        queue, below = self._queue(handle)
        return Node(
            "class",
            handle,
            "htb",
            str(traffic_class),
            self._names.get(handle, ""),
            traffic_class.rate,
            traffic_class.ceil,
            None if traffic_class.is_inner else traffic_class.prio,
            queue,
            self._reading.counters.get(handle),
            self._now(handle),
            (*inner, *below),
        )

    def _band(self, handle: Handle) -> Node:
        """A band of prio: its counters are those of its qdisc."""
        queue, below = self._queue(handle)
        counted = queue or next((q for q in self._reading.observed.qdiscs if q.parent == handle), None)
        return Node(
            "band",
            handle,
            "prio",
            f"band {handle.minor}",
            self._names.get(handle, ""),
            ceiling=_ceiling(counted),
            priority=handle.minor,
            queue=queue,
            stats=self._reading.counters.get(counted.handle) if counted else None,
            now=self._now(counted.handle) if counted else None,
            children=below,
        )

    def _queue(self, parent: Handle) -> tuple[Qdisc | None, tuple[Node, ...]]:
        """The child of a class: a single qdisc without children is its queue."""
        found = [q for q in self._qdiscs if q.parent == parent]
        nodes = tuple(self.qdisc(q) for q in found)
        if len(nodes) == 1 and not nodes[0].children:
            return found[0], ()
        return None, nodes

    def _now(self, handle: Handle) -> Rate | None:
        return self._reading.now.get(handle, Rate(0)) if self._reading.now is not None else None


def _ceiling(qdisc: Qdisc | None) -> Rate | None:
    """The rate limit of a qdisc, if it has one."""
    match qdisc:
        case Tbf():
            return qdisc.rate
        case Cake():
            return qdisc.bandwidth
        case _:
            return None
