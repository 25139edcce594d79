"""A tree whose total is lowered for a while, and the changes from one such tree to another. Pure.

The inner class alone would not hold its classes: HTB lets a class send at its own rate without asking its parent
(htb_class_mode() of net/sched/sch_htb.c; tc-htb(8): the rates of children must not be more than that of their parent).
So guarantees that do not fit are lowered in proportion. Ceils may stay: what is borrowed, the inner class has to lend.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tc_core.compile.mark_tree import burst, quantum, whole_bytes
from tc_core.kernel import ChangeClass
from tc_core.model import HtbClass, TrafficTree
from traffic_policy.units import Rate

_LEAST: Final = Rate(8)
"""One byte per second; HTB takes no rate of 0."""


def held(tree: TrafficTree, share: Rate) -> TrafficTree:
    """The tree with this total, or its own where that is less. Queues and filters stay."""
    total = max(_LEAST, whole_bytes(share))
    if total >= tree.inner.rate:
        return tree
    promised = sum(each.rate.bits_per_second for each in tree.classes)
    classes = tree.classes
    if promised > total.bits_per_second:
        classes = tuple(_lowered(each, total, promised) for each in classes)
    inner = replace(
        tree.inner, rate=total, ceil=total, burst=burst(total), cburst=burst(total), quantum=quantum(total)
    )  # fmt: skip
    return replace(tree, inner=inner, classes=classes)


def _lowered(each: HtbClass, total: Rate, promised: int) -> HtbClass:
    rate = max(_LEAST, whole_bytes(Rate(each.rate.bits_per_second * total.bits_per_second // promised)))
    return replace(each, rate=rate, burst=min(each.burst, burst(rate)))


def held_changes(old: TrafficTree, new: TrafficTree) -> tuple[ChangeClass, ...]:
    """From one of two trees that :func:`held` has made of the same to the other: the classes never have more together
    than the total at the time."""
    inner = () if old.inner == new.inner else (ChangeClass(new.inner),)
    classes = tuple(ChangeClass(now) for was, now in zip(old.classes, new.classes, strict=True) if was != now)
    return (*classes, *inner) if new.inner.rate < old.inner.rate else (*inner, *classes)
