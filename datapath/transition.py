"""The transition between two policies: the new one, plus the removed classes of the old one. Pure.

Classes are removed in two steps, so that their packets always have a class. First the new policy is applied with the
old classes kept, while connections and rules follow. Then nothing sends to the old classes, and each is deleted once
its queue is empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from traffic_policy.marks import ClassIds
from traffic_policy.policy import MIN_RATE, ResolvedClass, TrafficClass, TrafficPolicy
from traffic_policy.units import Rate


def transition(
    old: TrafficPolicy, old_ids: Mapping[str, int], new: TrafficPolicy, ids: ClassIds
) -> tuple[TrafficPolicy, ClassIds]:
    """``new`` plus the removed classes of ``old``, and the ids of all; ``new`` itself when none is removed.

    Removed classes keep their ceil, and of their rate what the new classes leave, so that the total holds. A class
    whose id was given to another one is left out.
    """
    taken = set(ids.values())
    going = [c for c in old.resolved() if c.name not in ids and old_ids[c.name] not in taken]
    if not going:
        return new, ids
    *_, default = new.resolved()
    room = new.total.bits_per_second - sum(c.rate.bits_per_second for c in new.resolved())
    wanted = sum(c.rate.bits_per_second for c in going)
    share = min(1.0, max(0, room) / wanted)
    both = new.model_copy(
        update={
            "classes": (*new.classes, *(_leaving(c, share) for c in going)),
            # Otherwise it would be derived from the guarantees of all classes.
            "default": new.default.model_copy(update={"rate": default.rate}),
        }
    )
    return both, ClassIds({**ids, **{c.name: old_ids[c.name] for c in going}})


def _leaving(going: ResolvedClass, share: float) -> TrafficClass:
    rate = max(MIN_RATE, Rate(int(going.rate.bits_per_second * share)))
    return TrafficClass.model_construct(
        name=going.name,
        rate=rate,
        ceil=max(rate, going.ceil),
        priority=going.priority,
        burst=going.burst,
        queue=going.queue,
        rehearsal=going.rehearsal,
        match=going.match,
    )
