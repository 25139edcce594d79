"""Policies: drafts, and the revisions that they become."""

from __future__ import annotations

from fastapi import APIRouter, Response

from control_plane.domain.access import Operation
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import DiscardDraft, DraftPolicy, PublishPolicy, RemovePolicy
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.tenant import Policy, Tenant
from control_plane.http.context import TheCaller, ThePaging, ThePlane, TheWriting, permit, tag
from control_plane.http.documents import (
    DraftWish,
    Happened,
    Page,
    PolicyCheck,
    PolicyDocument,
    PolicyWish,
    RevisionDocument,
)
from control_plane.http.lists import PolicySort, Prefix, RevisionSort, Yes, prefixed, present, read_page
from control_plane.http.problems import responses
from control_plane.http.rollout_documents import PublishWish
from control_plane.http.tenants import CHANGES, existing
from control_plane.read_models.listing import equal
from control_plane.read_models.lists import POLICIES, REVISIONS
from traffic_policy.describe import describe
from traffic_policy.policy_file import policy_from_document

router = APIRouter(prefix="/v1", responses=responses())


def existing_policy(state: Tenant, name: str) -> Policy:
    """Raises :class:`UnknownSubjectError`."""
    found = existing(state).policies.get(name)
    if found is None:
        raise UnknownSubjectError(f"There is no policy {name[:70]}.", "Look at the list of policies.")
    return found


def _describe(state: Tenant, policy: Policy) -> PolicyDocument:
    return PolicyDocument.describe(policy, state.version(f"policy/{policy.name}"))


@router.post("/validate", responses=responses(413))
def validate_policy(caller: TheCaller, wish: PolicyWish) -> PolicyCheck:  # noqa: ARG001 - only who has a token may ask
    """Whether agents can put a policy in force, and what it means. Nothing is stored."""
    document = CheckedPolicy.from_document(wish.document).document
    return PolicyCheck(document=dict(document), meaning=describe(policy_from_document(document)))


@router.get("/tenants/{tenant}/policies")
def list_policies(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: PolicySort = "name",
    name: Prefix = "",
    in_force: Yes = None,
    draft: Yes = None,
) -> Page[PolicyDocument]:
    """Also those that were removed: their revisions stay. `name`: only those whose names begin so."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    filters = [*prefixed("name", name), *present("in_force", in_force), *present("drafted", draft)]
    rows, following = read_page(plane, POLICIES, tenant, paging, sort, filters)
    return Page(items=[PolicyDocument.from_row(row) for row in rows], next=following)


@router.get("/tenants/{tenant}/policies/{policy}")
def get_policy(plane: ThePlane, caller: TheCaller, tenant: str, policy: str, response: Response) -> PolicyDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = _describe(state, existing_policy(state, policy))
    tag(response, document.version)
    return document


@router.get("/tenants/{tenant}/policies/{policy}/revisions")
def list_revisions(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    policy: str,
    paging: ThePaging,
    sort: RevisionSort = "revision",
) -> Page[RevisionDocument]:
    """All that were ever published."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing_policy(state, policy)
    rows, following = read_page(plane, REVISIONS, tenant, paging, sort, [equal("policy", policy)])
    return Page(items=[RevisionDocument.from_row(row) for row in rows], next=following)


@router.put("/tenants/{tenant}/policies/{policy}/draft", responses=CHANGES)
def draft_policy(
    writing: TheWriting, tenant: str, policy: str, wish: DraftWish, response: Response
) -> PolicyDocument | Happened:
    """Nothing is in force by a draft."""
    permit(writing.caller, Operation.DRAFT, tenant)
    command = DraftPolicy(policy, CheckedPolicy.from_document(wish.document), wish.selector, wish.nodes)
    happened = writing.carry_out(Operation.DRAFT, tenant, command, response)
    return _after(writing, tenant, policy, happened)


@router.delete("/tenants/{tenant}/policies/{policy}/draft", responses=CHANGES)
def discard_draft(writing: TheWriting, tenant: str, policy: str, response: Response) -> PolicyDocument | Happened:
    happened = writing.carry_out(Operation.DRAFT, tenant, DiscardDraft(policy), response)
    return _after(writing, tenant, policy, happened)


@router.post("/tenants/{tenant}/policies/{policy}/publish", responses=CHANGES)
def publish_policy(
    writing: TheWriting, tenant: str, policy: str, response: Response, wish: PublishWish | None = None
) -> PolicyDocument | Happened:
    """The draft becomes the next revision, which reaches all agents at once, or in the steps of a rollout."""
    permit(writing.caller, Operation.PUBLISH, tenant)
    plan = wish.rollout.plan() if wish is not None and wish.rollout is not None else None
    happened = writing.carry_out(Operation.PUBLISH, tenant, PublishPolicy(policy, plan), response)
    return _after(writing, tenant, policy, happened)


@router.delete("/tenants/{tenant}/policies/{policy}", responses=CHANGES)
def remove_policy(writing: TheWriting, tenant: str, policy: str, response: Response) -> PolicyDocument | Happened:
    """Nothing of it is in force any more. Its revisions stay."""
    happened = writing.carry_out(Operation.PUBLISH, tenant, RemovePolicy(policy), response)
    return _after(writing, tenant, policy, happened)


def _after(writing: TheWriting, tenant: str, policy: str, happened: Happened) -> PolicyDocument | Happened:
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return _describe(state, existing_policy(state, policy))
