"""Computes the changes from the observed to the wanted tree of an interface, in a safe order. Pure.

The order has three guarantees. *No packet is unshaped*: a class exists, with its queue, before a filter selects it, and
packets that no filter selects are in the default class. *No packet is dropped*: a class loses its filter before it is
deleted, and :mod:`tc_core.apply` waits for its queue; whatever can be changed in place is. *The total holds*: rates
shrink and classes are deleted before others grow or are added; the inner class grows before its children and shrinks
after them.

The first installation on an interface violates the first guarantee briefly: between HTB becoming the root and the
creation of its default class, two messages later, packets take HTB's direct queue at full speed. None is lost.

A tree is ours by its shape: HTB ``1:`` with ``default 1ff`` and no class but ``1:1`` and its children ``1:1NN``, or any
qdisc with the handle ``70d1:``. Any other root is foreign, except the kernel's default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace as altered
from typing import cast

from tc_core.bpf.mark_classifier import mark_filter
from tc_core.compile.mark_tree import DEFAULT_MINOR, INNER_HANDLE, LEAF_BASE, ROOT_HANDLE
from tc_core.errors import ForeignQdiscError
from tc_core.handles import Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddQdisc,
    Change,
    ChangeClass,
    ChangeQdisc,
    DeleteClass,
    DeleteFilter,
    DeleteQdisc,
    ReplaceFilter,
    SetLink,
)
from tc_core.model import (
    DEFAULT_R2Q,
    BpfFilter,
    ClassFilter,
    Filter,
    FwFilter,
    HtbClass,
    HtbQdisc,
    LeafQdisc,
    Observed,
    OtherQdisc,
    Qdisc,
    RootQdisc,
    TrafficTree,
)
from tc_core.qdiscs.hooks import PROGRAM_PRIO
from tc_core.trees import PLAIN_ROOT, PlainTree, Tree

_INSTALL_QUEUE_LEN = 1000
"""Packets; the kernel's default for Ethernet devices."""


def is_ours(observed: Observed) -> bool:
    """Whether the root and all its classes have the shape of our trees."""
    return _is_htb_tree(observed) or _is_plain_tree(observed)


def _is_htb_tree(observed: Observed) -> bool:
    root = observed.root
    return (
        isinstance(root, HtbQdisc)
        and (root.handle, root.default_minor) == (ROOT_HANDLE, DEFAULT_MINOR)
        and all(_is_our_class(c) for c in observed.classes)
    )


def _is_plain_tree(observed: Observed) -> bool:
    return observed.root is not None and observed.root.handle == PLAIN_ROOT


def _is_our_class(traffic_class: HtbClass) -> bool:
    handle = traffic_class.handle
    if handle == INNER_HANDLE:
        return traffic_class.parent == ROOT_HANDLE
    return traffic_class.parent == INNER_HANDLE and LEAF_BASE < handle.minor <= DEFAULT_MINOR


def diff(tree: Tree, observed: Observed, *, replace: bool = False) -> list[Change]:
    """The changes that turn ``observed`` into ``tree``; none if they agree.

    Raises :class:`ForeignQdiscError` when the root is foreign and ``replace`` is not set.
    """
    return _htb_diff(tree, observed, replace) if isinstance(tree, TrafficTree) else _plain_diff(tree, observed, replace)


def _htb_diff(tree: TrafficTree, observed: Observed, replace: bool) -> list[Change]:
    changes: list[Change] = []
    if not _is_htb_tree(observed):
        changes += _clearing(observed, replace)
        our_root = _root_for(tree, observed)
        changes.append(AddQdisc(our_root))
        observed = Observed(observed.link, (our_root,))
    return changes + _changes(tree, observed)


def _plain_diff(tree: PlainTree, observed: Observed, replace: bool) -> list[Change]:
    changes: list[Change] = []
    if not _is_plain_tree(observed):
        changes += _clearing(observed, replace)
        observed = Observed(observed.link)
    return [*changes, *_plain_changes(tree, observed)]


def _clearing(observed: Observed, replace: bool) -> list[Change]:
    """The changes that free the root: a tree of ours is removed, a foreign one only with ``replace``."""
    root = observed.root
    if root is None or (isinstance(root, OtherQdisc) and root.is_default):
        return []
    if not is_ours(observed) and not replace:
        raise ForeignQdiscError(
            f"{observed.link.name} already has a root qdisc that Podlane did not make: {root}. Remove it "
            f"(tc qdisc del dev {observed.link.name} root), or ask for it to be replaced (--replace)."
        )
    return removal(observed) or [DeleteQdisc(root)]


def removal(observed: Observed) -> list[Change]:
    """The changes that remove our tree and restore the link; none when the tree is not ours."""
    root = observed.root
    if root is None or not is_ours(observed):
        return []
    link = _link_changes(None, root, observed) if isinstance(root, HtbQdisc) else []
    return [*link, DeleteQdisc(root)]


def _plain_changes(tree: PlainTree, observed: Observed) -> Iterator[Change]:
    """The changes of a tree without classes: a qdisc that can be changed in place keeps its queue and children."""
    there = [qdisc for qdisc in observed.qdiscs if qdisc.handle.major]
    gone: set[int] = set()
    for wanted in tree.qdiscs:
        current = next((q for q in there if q.parent == wanted.parent and q.handle.major not in gone), None)
        if current is not None and wanted.agrees_with(current):
            continue
        if current is not None and wanted.can_become(current):
            # HTB and clsact never occur in such a tree.
            yield ChangeQdisc(cast("RootQdisc | LeafQdisc", wanted))
            continue
        if current is not None:
            gone |= _with_all_below(current, there)
            yield DeleteQdisc(current)
        yield AddQdisc(wanted)
    yield from _filter_changes(tree.filters, [f for f in observed.filters if f.parent.major not in gone])


def _with_all_below(top: Qdisc, qdiscs: Sequence[Qdisc]) -> set[int]:
    """The major numbers of a qdisc and of all its descendants, which are deleted with it."""
    majors = {top.handle.major}
    while more := {q.handle.major for q in qdiscs if q.parent.major in majors} - majors:
        majors |= more
    return majors


def _root_for(tree: TrafficTree, observed: Observed) -> HtbQdisc:
    """The root, with the interface's gso_max_size saved in ``r2q`` if we lower it (see HtbQdisc)."""
    previous = observed.link.gso_max_size
    if tree.gso_max_size is None or previous <= tree.gso_max_size:
        return tree.root
    return altered(tree.root, r2q=previous)


def _link_changes(gso_max_size: int | None, root: HtbQdisc, observed: Observed) -> list[Change]:
    """Lower gso_max_size to the tree's, or restore the value from before our tree."""
    current = observed.link.gso_max_size
    if gso_max_size is not None:
        return [SetLink(gso_max_size=gso_max_size)] if current > gso_max_size else []
    if root.r2q == DEFAULT_R2Q or current == root.r2q:
        return []
    return [SetLink(gso_max_size=root.r2q)]


def _changes(tree: TrafficTree, observed: Observed) -> list[Change]:
    """The changes below a root that is ours."""
    root = observed.root
    if not isinstance(root, HtbQdisc):
        raise TypeError(f"{root} is not an HTB root")
    wanted = {c.handle for c in tree.classes}
    present = {c.handle for c in observed.classes}
    gone = [c for c in observed.classes if c.handle not in wanted and c.handle != INNER_HANDLE]
    shrinking, others = _split_by_rate(tree, observed)
    staying = present & wanted
    is_complete = tree.default_class.handle in present
    interim = [limited for f in tree.filters if is_complete and (limited := _limited_to(f, staying)) is not None]
    inner_first, inner_last = _inner(tree.inner, observed.class_named(INNER_HANDLE))
    body: list[Change] = [
        *(ChangeClass(c) for c in shrinking),
        *_filter_changes(interim, observed.filters),
        *(DeleteClass(c) for c in gone),
        *inner_first,
        *_class_changes([tree.default_class, *tree.classes[:-1]], others, tree.leaves, observed),
        *_filter_changes(tree.filters, interim),
        *inner_last,
        *_link_changes(tree.gso_max_size, root, observed),
    ]
    if not is_complete and observed.link.tx_queue_len == 0:
        # HTB gives a new class a FIFO of tx_queue_len packets, which the default class uses until its own queue exists:
        # with 0 it would drop all packets.
        return [SetLink(tx_queue_len=_INSTALL_QUEUE_LEN), *body, SetLink(tx_queue_len=0)]
    return body


def _split_by_rate(tree: TrafficTree, observed: Observed) -> tuple[list[HtbClass], set[Handle]]:
    """Existing classes whose rate shrinks, and the handles of those that differ in any other way."""
    shrinking: list[HtbClass] = []
    others: set[Handle] = set()
    for wanted in tree.classes:
        current = observed.class_named(wanted.handle)
        if current is None or wanted.agrees_with(current):
            continue
        if wanted.rate < current.rate:
            shrinking.append(wanted)
        else:
            others.add(wanted.handle)
    return shrinking, others


def _inner(wanted: HtbClass, current: HtbClass | None) -> tuple[list[Change], list[Change]]:
    """The changes of the inner class before and after those of its children."""
    if current is None:
        return [AddClass(wanted)], []
    if wanted.agrees_with(current):
        return [], []
    change: list[Change] = [ChangeClass(wanted)]
    return (change, []) if wanted.rate >= current.rate else ([], change)


def _class_changes(
    classes: Iterable[HtbClass], altering: set[Handle], leaves: Iterable[LeafQdisc], observed: Observed
) -> Iterable[Change]:
    """New and growing classes, each followed by the changes of its queue."""
    leaf_for = {leaf.parent: leaf for leaf in leaves}
    present = {c.handle for c in observed.classes}
    for wanted in classes:
        if wanted.handle not in present:
            yield AddClass(wanted)
        elif wanted.handle in altering:
            yield ChangeClass(wanted)
        yield from _leaf_changes(leaf_for[wanted.handle], observed)


def _leaf_changes(wanted: LeafQdisc, observed: Observed) -> Iterable[Change]:
    current = observed.leaf_of(wanted.parent)
    if current is None:
        yield AddQdisc(wanted)
    elif not wanted.agrees_with(current):
        if wanted.can_become(current):
            yield ChangeQdisc(wanted)
        else:
            # Its kind, handle or number of flows cannot be changed in place. Replacing it drops its packets; it happens
            # only after a change of the kernel, of this program, or by another program.
            yield DeleteQdisc(current)
            yield AddQdisc(wanted)


def _limited_to(wanted: ClassFilter, classes: set[Handle]) -> ClassFilter | None:
    """The filter limited to targets in ``classes``; None when none is."""
    if isinstance(wanted, FwFilter):
        return wanted if wanted.target in classes else None
    if wanted.rules:
        # HTB sends packets for a class that does not exist to the default class (htb_classify in net/sched/sch_htb.c).
        return wanted
    selected = wanted.class_ids or frozenset()
    ids = selected & {handle.minor - LEAF_BASE for handle in classes}
    if ids == selected:
        return wanted
    return mark_filter(wanted.parent, ids) if ids else None


def _filter_changes(wanted: Sequence[ClassFilter], current: Sequence[Filter]) -> list[Change]:
    """The changes of the root's filters: remove conflicting ones, add new ones, remove the rest."""
    current = [f for f in current if f.prio != PROGRAM_PRIO]  # these come and go with their programs
    wanted_keys = {f.key: f for f in wanted}
    current_keys = {f.key: f for f in current}
    in_the_way = [f for f in current if any(_excludes(f, w) for w in wanted)]
    leftover = [f for f in current if f.key not in wanted_keys and f not in in_the_way]
    changes: list[Change] = [DeleteFilter(f) for f in in_the_way]
    for key, wanted_filter in wanted_keys.items():
        existing = current_keys.get(key)
        if existing is None or existing in in_the_way:
            changes.append(AddFilter(wanted_filter))
        elif existing != wanted_filter:
            changes.append(ReplaceFilter(wanted_filter))
    return changes + [DeleteFilter(f) for f in leftover]


def _excludes(existing: Filter, wanted: ClassFilter) -> bool:
    """Whether ``wanted`` conflicts with ``existing``: a priority has one kind of filter, and fw one mask."""
    if existing.prio != wanted.prio:
        return False
    if isinstance(existing, FwFilter) and isinstance(wanted, FwFilter):
        return existing.mark.mask != wanted.mark.mask or (
            existing.key == wanted.key and existing.target != wanted.target
        )
    return not (isinstance(existing, BpfFilter) and isinstance(wanted, BpfFilter))
