"""Between two policies: the new one, with the classes of the old one that go still in it. Pure.

A class goes in two steps, so that what it carries is never without a lane. First all is brought to the new policy, and
the classes that go stay beside it, while connections and rules follow. Then nobody sends there any more, and they go
when their queues are empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from traffic_policy.marks import ClassIds
from traffic_policy.policy import MIN_RATE, ResolvedClass, TrafficClass, TrafficPolicy
from traffic_policy.units import Rate


def transition(
    old: TrafficPolicy, old_ids: Mapping[str, int], new: TrafficPolicy, ids: ClassIds
) -> tuple[TrafficPolicy, ClassIds]:
    """``new`` with the classes of ``old`` that go, and the ids of all; ``new`` itself when none goes.

    Those keep their ceil and what of their guarantee the new classes leave, so that the total holds. A class whose id
    another one gets is not among them.
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
            # Else it would be worked out from the guarantees of all.
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
