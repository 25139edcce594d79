"""What the kernel does with qdiscs, on values: the part of :mod:`tc_core.fake.kernel` that follows net/sched/sch_api.c.

Every function takes the state of an interface and returns the one after it, or raises OSError with the number of the
refusal. Two things that the kernel hides are not in a state, and matter: HTB classes, bands and buckets have a FIFO of
their own until something else takes its place, and a default root stands where no other is; both have handle 0.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Final

from tc_core.handles import ROOT, Handle
from tc_core.model import Observed
from tc_core.qdiscs import (
    INGRESS,
    SFQ_FLOWS,
    Bfifo,
    Clsact,
    FqCodel,
    HtbQdisc,
    IngressQdisc,
    LeafQdisc,
    Netem,
    OtherQdisc,
    OurQdisc,
    Prio,
    Qdisc,
    RootQdisc,
    Sfq,
    Tbf,
)

_MAX_BANDS: Final = 16
"""TCQ_PRIO_BANDS; at least 2 there must be."""


def no(code: int) -> OSError:
    """A refusal with this number."""
    return OSError(code, "")


def default_qdisc(observed: Observed) -> OtherQdisc:
    """What the kernel puts on a virtual interface by itself: a queue where there is one by design, as on an ifb."""
    return OtherQdisc(Handle(0), ROOT, "pfifo_fast" if observed.link.kind == "ifb" else "noqueue")


def add_qdisc(state: Observed, qdisc: OurQdisc) -> Observed:
    """The state with one more qdisc."""
    taken = _at(state, qdisc.parent, graft=True)
    if taken is not None or _named(state, qdisc.handle) is not None:
        raise no(errno.EEXIST)
    if isinstance(qdisc, Clsact) != (qdisc.parent == INGRESS):
        raise no(errno.EINVAL)
    _validate(qdisc)
    if isinstance(qdisc, Sfq):  # sfq_change() in sch_sfq.c
        qdisc = replace(qdisc, limit=min(qdisc.limit, qdisc.depth * SFQ_FLOWS))
    return replace(state, qdiscs=(*(q for q in state.qdiscs if q.handle.major or q.parent != qdisc.parent), qdisc))


def change_qdisc(state: Observed, qdisc: RootQdisc | LeafQdisc) -> Observed:
    """The state with a qdisc altered in place."""
    current = _at(state, qdisc.parent, graft=False)
    if current is None:
        raise no(errno.ENOENT)
    if current.handle != qdisc.handle:
        raise no(errno.EEXIST)
    if current.kind != qdisc.kind or isinstance(qdisc, HtbQdisc | Sfq):
        raise no(errno.EINVAL)
    _validate(qdisc)
    if isinstance(qdisc, FqCodel) and isinstance(current, FqCodel):
        qdisc = replace(qdisc, flows=current.flows)
    state = replace(state, qdiscs=tuple(qdisc if q is current else q for q in state.qdiscs))
    match qdisc:
        case Prio(bands=bands):
            for gone in _below(state, qdisc.handle):
                if gone.parent.minor > bands:
                    state = _without(state, gone)
        case Tbf(limit=limit):  # it tells a FIFO below it (fifo_set_limit() in sch_fifo.c)
            told = [q for q in _below(state, qdisc.handle) if isinstance(q, Bfifo)]
            kept = tuple(q for q in state.qdiscs if q not in told)
            state = replace(state, qdiscs=(*kept, *(replace(q, limit=limit) for q in told)))
    return state


def delete_qdisc(state: Observed, qdisc: Qdisc) -> Observed:
    """The state without a qdisc and all that is below it."""
    current = _at(state, qdisc.parent, graft=False)
    if current is None and qdisc.parent != ROOT and not _has_hidden_queue(state, qdisc.parent):
        raise no(errno.ENOENT)
    # Where we see no qdisc the kernel has one of its own, with handle 0: so the handle is what is wrong.
    if current is None or current.handle != qdisc.handle:
        raise no(errno.EINVAL)
    state = _without(state, current)
    if current.parent == ROOT:
        return replace(state, qdiscs=(default_qdisc(state), *state.qdiscs), classes=())
    return replace(state, ingress=(), egress=()) if current.parent == INGRESS else state


def without_queue(state: Observed, parent: Handle) -> Observed:
    """The state without what is attached to a class that goes."""
    for queue in [q for q in state.qdiscs if q.parent == parent]:
        state = _without(state, queue)
    return state


def _at(state: Observed, parent: Handle, *, graft: bool) -> Qdisc | None:
    """What is attached at ``parent``, None for what the kernel put there by itself; ``graft`` is to attach another."""
    if parent == INGRESS:
        return state.ingress_qdisc
    if parent != ROOT:
        _check_parent(state, parent, graft=graft)
    return next((q for q in state.qdiscs if q.parent == parent and q.handle.major), None)


def _check_parent(state: Observed, parent: Handle, *, graft: bool) -> None:
    """Raise what the kernel answers where nothing can be attached."""
    match _named(state, Handle(parent.major)):
        case None:
            raise no(errno.ENOENT)
        case HtbQdisc():
            traffic_class = state.class_named(parent)
            if traffic_class is None:
                raise no(errno.ENOENT)
            if graft and traffic_class.is_inner:
                raise no(errno.EINVAL)
        case Prio(bands=bands):
            if not 1 <= parent.minor <= bands:
                raise no(errno.ENOENT)
        case Tbf() | Netem():
            pass  # their one class answers to every number
        case _:
            raise no(errno.EOPNOTSUPP)


def _has_hidden_queue(state: Observed, parent: Handle) -> bool:
    """Whether the kernel has a queue of its own where we see none: everywhere but on inner classes and below netem."""
    traffic_class = state.class_named(parent)
    owner = _named(state, Handle(parent.major))
    return isinstance(owner, Tbf | Prio) or (traffic_class is not None and not traffic_class.is_inner)


def _validate(qdisc: OurQdisc) -> None:
    """Raise EINVAL for numbers that a kind does not take."""
    match qdisc:
        case Prio(bands=bands, priomap=priomap):
            valid = 2 <= bands <= _MAX_BANDS and max(priomap) < bands
        case Tbf(burst=burst):
            valid = burst.count > 0
        case _:
            valid = True
    if not valid:
        raise no(errno.EINVAL)


def _named(state: Observed, handle: Handle) -> Qdisc | None:
    return next((q for q in state.qdiscs if q.handle == handle and handle.major), None)


def _below(state: Observed, handle: Handle) -> list[Qdisc]:
    """What is attached to the classes of a qdisc."""
    places = (ROOT, INGRESS)
    return [q for q in state.qdiscs if q.parent.major == handle.major and q.parent not in places]


def _without(state: Observed, gone: Qdisc) -> Observed:
    state = replace(
        state,
        qdiscs=tuple(q for q in state.qdiscs if q is not gone),
        filters=tuple(f for f in state.filters if f.parent != gone.handle),
    )
    if not isinstance(gone, Clsact | IngressQdisc):
        for child in _below(state, gone.handle):
            state = _without(state, child)
    return state
