"""Rollouts: how far a revision is, and what may be said to it on its way."""

from __future__ import annotations

from fastapi import APIRouter, Response

from control_plane.domain.access import Operation
from control_plane.domain.commands import PauseRollout, ResumeRollout, RolloutCommand, TakeBackRollout
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.tenant import Tenant
from control_plane.fleet.agent_status import FleetStatus
from control_plane.http.agents import TheFleet
from control_plane.http.context import TheCaller, ThePlane, TheWriting, Writing, permit, tag
from control_plane.http.documents import Happened
from control_plane.http.problems import responses
from control_plane.http.rollout_documents import RolloutDocument
from control_plane.http.tenants import CHANGES, existing

router = APIRouter(prefix="/v1/tenants/{tenant}/policies/{policy}/rollout", responses=responses())


def _describe(state: Tenant, name: str, fleet: FleetStatus) -> RolloutDocument:
    policy = existing(state).policies.get(name)
    if policy is None or policy.rollout is None:
        raise UnknownSubjectError(f"The policy {name[:70]} has no rollout.", "Publish a draft with one.")
    return RolloutDocument.describe(name, policy.rollout, fleet.agents(state.name).rollouts.get(name))


@router.get("")
def get_rollout(
    plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, policy: str, response: Response
) -> RolloutDocument:
    """The last one, also when it has ended."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        tag(response, state.version(f"policy/{policy}"))
        return _describe(state, policy, fleet)


@router.post("/pause", responses=CHANGES)
def pause_rollout(
    writing: TheWriting, fleet: TheFleet, tenant: str, policy: str, response: Response
) -> RolloutDocument | Happened:
    """It reaches nobody else. Who has the revision keeps it, and gates are not looked at."""
    return _change(writing, fleet, tenant, PauseRollout(policy, writing.by.reason), response)


@router.post("/resume", responses=CHANGES)
def resume_rollout(
    writing: TheWriting, fleet: TheFleet, tenant: str, policy: str, response: Response
) -> RolloutDocument | Happened:
    """Its step begins to soak again."""
    return _change(writing, fleet, tenant, ResumeRollout(policy), response)


@router.post("/abort", responses=CHANGES)
def abort_rollout(
    writing: TheWriting, fleet: TheFleet, tenant: str, policy: str, response: Response
) -> RolloutDocument | Happened:
    """All agents get what was before."""
    reason = writing.by.reason or f"aborted by {writing.by.author}"
    return _change(writing, fleet, tenant, TakeBackRollout(policy, reason), response)


def _change(
    writing: Writing, fleet: FleetStatus, tenant: str, command: RolloutCommand, response: Response
) -> RolloutDocument | Happened:
    happened = writing.carry_out(Operation.PUBLISH, tenant, command, response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return _describe(state, command.policy, fleet)
