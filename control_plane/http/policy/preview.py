"""What a policy would change, before anything is drafted."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from control_plane.domain.access import Operation
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.policy_preview import LaneFate, LaneLimits, LanePreview, PastLane, preview, rivals
from control_plane.fleet.figures import SECONDS, TenantFigures
from control_plane.http.agents import TheFleet
from control_plane.http.context import TheCaller, ThePlane, permit
from control_plane.http.documents import DraftWish
from control_plane.http.problems import responses
from control_plane.http.tenants import existing

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())


class LimitsDocument(BaseModel):
    """``rate`` and ``ceil`` in bit/s."""

    rate: int
    ceil: int
    priority: int

    @classmethod
    def describe(cls, limits: LaneLimits | None) -> LimitsDocument | None:
        if limits is None:
            return None
        return cls(rate=limits.rate, ceil=limits.ceil, priority=limits.priority)


class LanePreviewDocument(BaseModel):
    """A lane (empty: the total) before and after, null where it is not there. ``other_matches``: of other traffic.

    ``waited``: in so many of the seconds looked at more went through than all workloads may together; ``beyond``: that
    share of the traffic. It is the least that would have waited: one workload may have to while others do not.
    """

    direction: str
    lane: str
    fate: LaneFate
    before: LimitsDocument | None
    after: LimitsDocument | None
    other_matches: bool
    waited: int
    beyond: float

    @classmethod
    def describe(cls, lane: LanePreview) -> LanePreviewDocument:
        return cls(
            direction=lane.direction,
            lane=lane.lane,
            fate=lane.fate,
            before=LimitsDocument.describe(lane.before),
            after=LimitsDocument.describe(lane.after),
            other_matches=lane.other_matches,
            waited=lane.waited,
            beyond=lane.beyond,
        )


class RivalDocument(BaseModel):
    """Another policy by which the same workloads may be selected; ``wins``: then it is the one that they have."""

    policy: str
    wins: bool


class PreviewDocument(BaseModel):
    """``workloads`` have the policy as it is in force now; with another selector others will. ``seconds``: so many were
    looked at, of those in which agents have said something of it."""

    policy: str
    revision: int
    workloads: int
    selector_before: dict[str, str] | None
    selector_after: dict[str, str]
    seconds: int
    lanes: list[LanePreviewDocument]
    rivals: list[RivalDocument]


@router.post("/policies/{policy}/preview", responses=responses(413))
def preview_policy(
    plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, policy: str, wish: DraftWish
) -> PreviewDocument:
    """Against what is in force: limits that change, and what would have waited in the last fifteen minutes."""
    permit(caller, Operation.DRAFT, tenant)
    after = CheckedPolicy.from_document(wish.document).document
    with plane.reading(tenant) as state:
        found = existing(state).policies.get(policy)
        content = found.in_force if found is not None else None
        revision = found.revision if found is not None else 0
        others = {
            name: dict(each.in_force.selector) for name, each in state.policies.items() if each.in_force is not None
        }
    figures = fleet.agents(tenant).figures
    past, workloads, seconds = _past(figures, figures.settled(plane.now), policy)
    return PreviewDocument(
        policy=policy,
        revision=revision,
        workloads=workloads,
        selector_before=None if content is None else dict(content.selector),
        selector_after=wish.selector,
        seconds=seconds,
        lanes=[
            LanePreviewDocument.describe(each)
            for each in preview(None if content is None else content.document, after, past)
        ],
        rivals=[RivalDocument(policy=each.policy, wins=each.wins) for each in rivals(policy, wish.selector, others)],
    )


def _past(figures: TenantFigures, until: int, policy: str) -> tuple[list[PastLane], int, int]:
    """What went through a policy's lanes, how many workloads had it in the last second, and in how many seconds."""
    series = figures.window(until, SECONDS, policy)
    lanes = [PastLane(each.direction, each.lane, each.values["bytes"], each.values["workloads"]) for each in series]
    heard = [max(counts) for counts in zip(*(each.workloads for each in lanes), strict=True)]
    last = next((count for count in reversed(heard) if count), 0)
    return lanes, last, sum(count > 0 for count in heard)
