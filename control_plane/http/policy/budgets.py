"""Budgets: how many bytes may go through lanes in a day or a month, and how many have."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from control_plane.domain.access import Operation
from control_plane.domain.commands import RemoveBudget, SetBudget
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.tenant import Tenant
from control_plane.domain.volume_budget import BudgetPeriod, BudgetUse, VolumeBudget
from control_plane.http.context import TheCaller, ThePlane, TheWriting, permit, tag
from control_plane.http.documents import Asked, Happened
from control_plane.http.problems import responses
from control_plane.http.tenants import CHANGES, existing
from control_plane.service import ControlPlane

router = APIRouter(prefix="/v1/tenants/{tenant}/budgets", responses=responses())

_MOST = 2**53 - 1
"""The largest integer that JSON's readers can take."""


class BudgetWish(Asked):
    """``bytes`` in each period, through what is named: a policy, a class, a direction, or all lanes together."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    bytes: Annotated[int, Field(ge=1, le=_MOST)]
    period: BudgetPeriod = BudgetPeriod.MONTH
    policy: Annotated[str, Field(max_length=63)] = ""
    lane: Annotated[str, Field(alias="class", max_length=63)] = ""
    direction: Literal["", "egress", "ingress"] = ""

    def budget(self) -> VolumeBudget:
        """Raises :class:`~control_plane.domain.errors.InvalidError`."""
        return VolumeBudget(self.bytes, self.period, self.policy, self.lane, self.direction)


class BudgetDocument(BaseModel):
    """``used`` bytes of it in the period that ends at ``until`` (Unix seconds), which is ``share`` of it: 1 is all.
    ``used_up``: when all of it will be, if bytes go on as in the period so far (Unix seconds); null: not before
    ``until``, or all of it is already."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    name: str
    version: int
    bytes: int
    period: BudgetPeriod
    policy: str
    lane: Annotated[str, Field(alias="class")]
    direction: str
    used: int
    share: float
    until: int
    used_up: int | None

    @classmethod
    def describe(cls, name: str, version: int, use: BudgetUse) -> BudgetDocument:
        budget = use.budget
        return cls(
            name=name,
            version=version,
            bytes=budget.bytes,
            period=budget.period,
            policy=budget.policy,
            lane=budget.lane,
            direction=budget.direction,
            used=use.used,
            share=use.share,
            until=use.until,
            used_up=use.used_up,
        )


class BudgetsDocument(BaseModel):
    """All of a tenant, by their names."""

    items: list[BudgetDocument]


@router.get("")
def list_budgets(plane: ThePlane, caller: TheCaller, tenant: str) -> BudgetsDocument:
    """With what is used of each."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        uses = sorted(plane.budgets.uses(existing(state), plane.now).items())
        return BudgetsDocument(
            items=[BudgetDocument.describe(name, state.version(f"budget/{name}"), use) for name, use in uses]
        )


@router.get("/{budget}")
def get_budget(plane: ThePlane, caller: TheCaller, tenant: str, budget: str, response: Response) -> BudgetDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = _budget(plane, state, budget)
    tag(response, document.version)
    return document


@router.put("/{budget}", responses=CHANGES)
def put_budget(
    writing: TheWriting, tenant: str, budget: str, wish: BudgetWish, response: Response
) -> BudgetDocument | Happened:
    """What went through lanes in its period before counts, too. It changes no lane."""
    permit(writing.caller, Operation.PUBLISH, tenant)
    happened = writing.carry_out(Operation.PUBLISH, tenant, SetBudget(budget, wish.budget()), response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return _budget(writing.plane, state, budget)


@router.delete("/{budget}", responses=CHANGES)
def remove_budget(writing: TheWriting, tenant: str, budget: str, response: Response) -> Happened:
    return writing.carry_out(Operation.PUBLISH, tenant, RemoveBudget(budget), response)


def _budget(plane: ControlPlane, state: Tenant, name: str) -> BudgetDocument:
    use = plane.budgets.uses(existing(state), plane.now).get(name)
    if use is None:
        raise UnknownSubjectError(f"There is no budget {name[:70]}.", "Look at the list of budgets.")
    return BudgetDocument.describe(name, state.version(f"budget/{name}"), use)
