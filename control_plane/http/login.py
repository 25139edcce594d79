"""Logging in by the identity provider: browsers get a session, the command line tokens."""

from __future__ import annotations

import secrets
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse

from control_plane.access.gate import Users
from control_plane.access.provider import Grant
from control_plane.access.sessions import csrf_token
from control_plane.domain.errors import NotAllowedError, UnauthenticatedError, UnknownSubjectError
from control_plane.http.context import SESSION_COOKIE, TheCaller, TheCredentials, TheGate, ThePlane, address_of
from control_plane.http.documents import (
    DeviceDocument,
    DeviceWish,
    LoginTokens,
    LogoutDocument,
    RefreshWish,
    SessionDocument,
    SignInDocument,
)
from control_plane.http.problems import responses
from control_plane.http.tenants import roles_of

router = APIRouter(prefix="/v1", responses=responses())
_LOGIN_COOKIE: Final = "podlane-login"
_LOGIN_S: Final = 600
"""Seconds in which one has to log in."""
_CALLBACK: Final = "/v1/login/callback"


def _users(request: Request, gate: TheGate) -> Users:
    """Counts the request: the provider is asked for whoever sends it."""
    if gate.users is None:
        raise UnknownSubjectError("No identity provider is configured.", "Start with --oidc-issuer, or use a token.")
    gate.count_login(address_of(request))
    return gate.users


TheUsers = Annotated[Users, Depends(_users)]


@router.get("/login", status_code=303, response_class=RedirectResponse)
def login(users: TheUsers, next: Annotated[str, Query(max_length=500)] = "/") -> RedirectResponse:
    """Send a browser to the identity provider; afterwards it is at the path ``next`` of ours, with a session."""
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    response = RedirectResponse(users.provider.login_url(users.url + _CALLBACK, state, nonce, verifier), 303)
    known = urlencode({"state": state, "nonce": nonce, "verifier": verifier, "next": _ours(next)})
    # Lax: the provider's page leads to the callback.
    response.set_cookie(
        _LOGIN_COOKIE, known, _LOGIN_S, path=_CALLBACK, secure=users.secure, httponly=True, samesite="lax"
    )
    return response


@router.get("/login/callback", status_code=303, response_class=RedirectResponse)
def login_callback(
    request: Request,
    users: TheUsers,
    code: Annotated[str, Query(max_length=4000)] = "",
    state: Annotated[str, Query(max_length=200)] = "",
    error: Annotated[str, Query(max_length=200)] = "",
) -> RedirectResponse:
    """Where the identity provider sends the browser back to."""
    known = dict(parse_qsl(request.cookies.get(_LOGIN_COOKIE, "")))
    if not state or not secrets.compare_digest(known.get("state", "").encode(), state.encode()):
        raise UnauthenticatedError("This login was not begun in this browser, or long ago.", "Begin at /v1/login.")
    if error or not code:
        raise UnauthenticatedError("The identity provider has let nobody in.", "Begin at /v1/login, or ask there.")
    grant = users.provider.exchange(code, users.url + _CALLBACK, known.get("verifier", ""))
    users.provider.user_of_login(grant.id_token, known.get("nonce", ""))
    # Groups are those of the access token, as they are whenever it is renewed.
    text = users.sessions.begin(users.provider.user_of(grant.access_token), grant)
    response = RedirectResponse(_ours(known.get("next", "/")), 303)
    response.delete_cookie(_LOGIN_COOKIE, path=_CALLBACK)
    response.set_cookie(SESSION_COOKIE, text, path="/", secure=users.secure, httponly=True, samesite="lax")
    return response


@router.get("/sign-in")
def get_sign_in(gate: TheGate) -> SignInDocument:
    """How one may sign in here. Wants no token."""
    return SignInDocument(provider=gate.users is not None)


@router.post("/session", response_model=SessionDocument)
def begin_session(plane: ThePlane, gate: TheGate, caller: TheCaller, given: TheCredentials) -> JSONResponse:
    """Begin a session of this browser with a token of ours, which is sent once, as Bearer.

    It lasts for twelve hours at most, and no longer than the token.
    """
    if given is None or not caller.token:
        raise NotAllowedError("A session begins with a token of the control plane.", "Send one, or begin at /v1/login.")
    text = gate.tokens.begin(given.credentials)
    document = SessionDocument(author=caller.author, roles=roles_of(plane, caller), csrf_token=csrf_token(text))
    response = JSONResponse(document.model_dump(mode="json"))
    # Strict: no other page leads into a session. The page itself is not sent by it, only what the page asks for.
    response.set_cookie(SESSION_COOKIE, text, path="/", secure=gate.secure, httponly=True, samesite="strict")
    return response


@router.get("/session")
def get_session(request: Request, plane: ThePlane, caller: TheCaller) -> SessionDocument:
    """Who has logged in with this browser, and what its page has to send with every change, as X-CSRF-Token."""
    text = request.cookies.get(SESSION_COOKIE, "")
    return SessionDocument(
        author=caller.author, roles=roles_of(plane, caller), csrf_token=csrf_token(text) if text else None
    )


@router.post("/logout", response_model=LogoutDocument)
def logout(request: Request, gate: TheGate, caller: TheCaller) -> JSONResponse:  # noqa: ARG001 - checks X-CSRF-Token
    """End the session, at the identity provider too. ``logout_url`` logs the browser out there."""
    text = request.cookies.get(SESSION_COOKIE, "")
    url = None
    if gate.tokens.owns(text):
        gate.tokens.end(text)
    elif gate.users is not None and text:
        gate.users.sessions.end(text)
        if end := gate.users.provider.endpoint("end_session_endpoint"):
            query = {"client_id": gate.users.provider.settings.client_id, "post_logout_redirect_uri": gate.users.url}
            url = f"{end}?{urlencode(query)}"
    response = JSONResponse(LogoutDocument(logout_url=url).model_dump())
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


@router.post("/login/device")
def begin_device_login(users: TheUsers) -> DeviceDocument:
    """Begin a login of a program: somebody goes to ``verification_uri`` with any browser, and types ``user_code``."""
    return DeviceDocument.model_validate(users.provider.begin_device())


@router.post("/login/device/token")
def finish_device_login(users: TheUsers, wish: DeviceWish) -> LoginTokens:
    """Ask each ``interval`` seconds whether they have. ``pending``: not yet; else the tokens are there."""
    found = users.provider.device_grant(wish.device_code)
    if isinstance(found, Grant):
        return _tokens(found)
    if found in ("authorization_pending", "slow_down"):
        return LoginTokens(pending=found)
    raise UnauthenticatedError(f"The identity provider ended the login: {found}.", "Begin again.")


@router.post("/login/refresh")
def refresh_login(users: TheUsers, wish: RefreshWish) -> LoginTokens:
    """New tokens for a refresh token."""
    return _tokens(users.provider.refresh(wish.refresh_token))


def _tokens(grant: Grant) -> LoginTokens:
    return LoginTokens(
        access_token=grant.access_token, refresh_token=grant.refresh_token or None, expires_in=grant.expires_in
    )


def _ours(path: str) -> str:
    """A path of ours: no link to ``/v1/login`` may lead elsewhere. Browsers read a backslash as a slash."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
