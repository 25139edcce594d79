"""What operations share: whose request it is, what comes with a write, and pages of lists."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Header, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from control_plane.access.gate import Gate
from control_plane.access.sessions import check_csrf
from control_plane.domain.access import Operation, Role, without_secrets
from control_plane.domain.commands import Command, subject_of
from control_plane.domain.errors import NotAllowedError
from control_plane.http.documents import Happened
from control_plane.http.problems import MalformedError
from control_plane.service import Caller, Circumstances, ControlPlane

_T = TypeVar("_T")
_ETAG: Final = re.compile(r'"(\d{1,15})"')
_MOST: Final = 1000
"""Items of a page."""

SESSION_COOKIE: Final = "podlane-session"

_bearer = HTTPBearer(auto_error=False, description="A token of `podlane control-plane`, or of POST .../tokens.")


def _plane(request: Request) -> ControlPlane:
    plane: ControlPlane = request.app.state.plane
    return plane


ThePlane = Annotated[ControlPlane, Depends(_plane)]


def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


TheGate = Annotated[Gate, Depends(_gate)]


def address_of(request: Request) -> str:
    """From where it comes: a proxy's address, behind one."""
    return request.client.host if request.client else ""


TheCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def _caller(
    request: Request,
    gate: TheGate,
    given: TheCredentials,
    view_as: Annotated[str, Header(alias="Podlane-View-As", max_length=100, include_in_schema=False)] = "",
) -> Caller:
    cookie = request.cookies.get(SESSION_COOKIE)
    if given is None and cookie:
        caller = gate.admit_session(cookie, address_of(request))
        request.state.caller = caller
        if request.method not in ("GET", "HEAD"):
            check_csrf(cookie, request.headers.get("X-CSRF-Token", ""))
    else:
        caller = gate.admit(given.credentials if given else None, address_of(request))
        request.state.caller = caller
    gate.count(caller)
    return _viewing(caller, view_as) if view_as else caller


def _viewing(caller: Caller, view_as: str) -> Caller:
    tenant, _, role = view_as.partition("/")
    if role not in list(Role):
        raise MalformedError("Podlane-View-As has no role of ours.", "Send TENANT/ROLE, as default/viewer.")
    return caller.viewing_as(tenant, Role(role))


TheCaller = Annotated[Caller, Depends(_caller)]


def permit(caller: Caller, operation: Operation, tenant: str) -> None:
    """Raises :class:`NotAllowedError`. Comes first: who may not ask is not told what there is."""
    if caller.viewing and operation not in (Operation.READ, Operation.DRAFT):
        raise _only_viewing(caller, tenant)
    if not caller.may(operation, tenant):
        home = caller.tenant or tenant
        role = caller.role_in(home)
        raise NotAllowedError(
            f"{caller.author} has {f'the role {role} in {home}' if role else f'no role in {home[:70]}'}, and may not "
            f"{operation} in {tenant[:70]}.",
            "Ask an administrator for another role.",
        )


def _only_viewing(caller: Caller, tenant: str) -> NotAllowedError:
    return NotAllowedError(
        f"You look at {tenant[:70]} as {caller.role_in(tenant) or 'nobody'}: nothing is changed meanwhile.",
        "End the preview first.",
    )


@dataclass(frozen=True, slots=True)
class Writing:
    """What comes with a request that changes something, and how it is carried out."""

    plane: ControlPlane
    caller: Caller
    by: Circumstances
    dry_run: bool

    def carry_out(self, operation: Operation, tenant: str, command: Command, response: Response) -> Happened:
        """What happened, or would. The subject's new version becomes the ETag of the response."""
        permit(self.caller, operation, tenant)
        if self.caller.viewing:
            raise _only_viewing(self.caller, tenant)
        if self.dry_run:
            return Happened.describe(self.plane.decide(tenant, command, self.by.version), dry_run=True)
        done = self.plane.carry_out(tenant, command, self.by)
        if done.replayed:
            response.headers["Idempotent-Replayed"] = "true"
        with self.plane.reading(tenant) as state:
            tag(response, state.version(subject_of(command)))
        return Happened.describe(done.events)


async def _writing(
    request: Request,
    plane: ThePlane,
    caller: TheCaller,
    if_match: Annotated[str | None, Header(description="The ETag that you have seen.")] = None,
    if_none_match: Annotated[str | None, Header(description="* : only if there is none yet.")] = None,
    idempotency_key: Annotated[str | None, Header(pattern="^[!-~]{1,128}$")] = None,
    podlane_reason: Annotated[str | None, Header(max_length=500, description="For the audit log.")] = None,
    dry_run: Annotated[bool, Query(alias="dry-run", description="Say what would happen, and do nothing.")] = False,
) -> Writing:
    body = await request.body()
    # Without the host: it may be repeated at another of several control planes.
    target = f"{request.url.path}?{request.url.query}"
    content = b"\n".join([request.method.encode(), target.encode(), body])
    by = Circumstances(
        caller.author,
        address_of(request),
        _reason(podlane_reason or ""),
        f"{caller.author}:{idempotency_key}" if idempotency_key else "",
        hashlib.sha256(content).hexdigest(),
        _version(if_match, if_none_match),
    )
    return Writing(plane, caller, by, dry_run)


TheWriting = Annotated[Writing, Depends(_writing)]


def _reason(text: str) -> str:
    """A header is read as Latin-1; clients send UTF-8."""
    text = text.encode("latin-1").decode(errors="replace")
    return without_secrets("".join(character if character.isprintable() else " " for character in text))


def _version(if_match: str | None, if_none_match: str | None) -> int | None:
    if if_none_match is not None:
        if if_none_match != "*" or if_match is not None:
            raise MalformedError("If-None-Match can only be *, without If-Match.", "Send If-Match: and the ETag.")
        return 0
    if if_match is None or if_match == "*":
        return None
    found = _ETAG.fullmatch(if_match)
    if not found:
        raise MalformedError("If-Match has no ETag of ours.", 'Send it as it was received, as in "17".')
    return int(found[1])


def tag(response: Response, version: int) -> None:
    """The ETag of what is sent."""
    response.headers["ETag"] = f'"{version}"'


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is asked for: at most ``limit`` items that follow the one named ``after``."""

    limit: int
    after: str

    def cut(self, items: Iterable[tuple[str, _T]]) -> tuple[list[_T], str | None]:
        """The part of all items, by their names, and the cursor of what follows."""
        return self.page(sorted((item for item in items if item[0] > self.after), key=lambda item: item[0]))

    def page(self, items: Sequence[tuple[str, _T]]) -> tuple[list[_T], str | None]:
        """The same, of items that follow in their order."""
        page = items[: self.limit]
        return [item for _, item in page], self.cursor(page[-1][0]) if len(items) > self.limit else None

    @staticmethod
    def cursor(after: str) -> str:
        """What a client is to send for what follows."""
        return base64.urlsafe_b64encode(after.encode()).decode()


def _paging(
    limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
    cursor: Annotated[str, Query(max_length=1000, description="`next` of the page before.")] = "",
) -> Paging:
    try:
        after = base64.urlsafe_b64decode(cursor.encode("ascii")).decode()
    except (binascii.Error, UnicodeError):
        raise MalformedError("This is no cursor.", "Send `next` of the page before as it was received.") from None
    return Paging(limit, after)


ThePaging = Annotated[Paging, Depends(_paging)]
