"""Errors as application/problem+json (RFC 9457), each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from control_plane.access.provider import ProviderError
from control_plane.domain.errors import (
    InvalidError,
    NotAllowedError,
    RefusedError,
    StateConflictError,
    TooManyError,
    UnauthenticatedError,
    UnknownEventError,
    UnknownSubjectError,
)
from control_plane.fleet.past import PrometheusError
from control_plane.fleet.questions import SilentAgentError
from control_plane.service import VersionError
from control_plane.store.errors import KeyReusedError, StaleError, StoreError
from traffic_policy.errors import PodlaneError, PolicyError, Problem

_MEDIA_TYPE: Final = "application/problem+json"
_MOST_TOLD: Final = 50
_LONGEST_TOLD: Final = 300


class MendDocument(BaseModel):
    """Another value at a path of the policy, by which the problem goes away. ``raises`` or lowers what is there."""

    path: str
    value: str
    raises: bool


class PolicyProblem(BaseModel):
    """One thing that is wrong in what was sent, and where. ``mends``: what a program can do about it, each alone."""

    path: str
    message: str
    remedy: str
    mends: list[MendDocument] = []

    @classmethod
    def describe(cls, problem: Problem) -> PolicyProblem:
        mends = [MendDocument(path=each.path, value=each.value, raises=each.raises) for each in problem.mends]
        return cls(path=problem.path, message=problem.message, remedy=problem.remedy, mends=mends)


class ProblemDocument(BaseModel):
    """Why a request was refused."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    problems: list[PolicyProblem] = []


class MalformedError(RefusedError):
    """A header or a parameter cannot be read."""


_KINDS: Final[Mapping[type[PodlaneError], tuple[int, str, str]]] = {
    MalformedError: (400, "malformed", "The request cannot be read"),
    UnauthenticatedError: (401, "unauthenticated", "Who are you?"),
    NotAllowedError: (403, "not-allowed", "You may not do this"),
    UnknownSubjectError: (404, "not-found", "There is no such thing"),
    StateConflictError: (409, "conflict", "What is there does not allow it"),
    VersionError: (412, "changed-meanwhile", "It was changed meanwhile"),
    InvalidError: (422, "invalid", "The request is wrong"),
    PolicyError: (422, "invalid-policy", "The policy is wrong"),
    TooManyError: (429, "too-many-requests", "Too many requests"),
    KeyReusedError: (422, "key-reused", "The Idempotency-Key was used before"),
    StaleError: (503, "busy", "Others write all the time"),
    UnknownEventError: (503, "newer-events", "A newer version has written"),
    PrometheusError: (503, "prometheus-failed", "Prometheus failed"),
    SilentAgentError: (503, "agent-failed", "The agent does not answer"),
    ProviderError: (503, "provider-failed", "The identity provider failed"),
    StoreError: (503, "store-failed", "The database failed"),
}
_OTHERS: Final = {
    400: "Send valid JSON.",
    404: "See /openapi.json for what there is.",
    405: "See /openapi.json for the methods that there are.",
    413: "Send less.",
}


def problem_response(
    status: int, kind: str, title: str, detail: str, remedy: str, problems: list[PolicyProblem] | None = None
) -> JSONResponse:
    """The document, as a response."""
    return _response(_document(status, kind, title, detail, remedy, problems))


def _document(
    status: int, kind: str, title: str, detail: str, remedy: str, problems: list[PolicyProblem] | None = None
) -> ProblemDocument:
    return ProblemDocument(
        type=f"urn:podlane:problem:{kind}", title=title, status=status, detail=detail, remedy=remedy,
        problems=problems or [],
    )  # fmt: skip


def _response(document: ProblemDocument) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if document.status == 401 else None
    return JSONResponse(document.model_dump(), document.status, headers, media_type=_MEDIA_TYPE)


def problem_of(error: PodlaneError) -> ProblemDocument:
    """The document of an error that a request may end with."""
    status, kind, title = next(told for cls, told in _KINDS.items() if isinstance(error, cls))
    if isinstance(error, PolicyError):
        told = [PolicyProblem.describe(each) for each in error.problems[:_MOST_TOLD]]
        detail = f"{len(error.problems)} problems" if len(error.problems) > 1 else error.problems[0].message
        return _document(status, kind, title, detail, "Mend what problems lists.", told)
    if isinstance(error, RefusedError):
        return _document(status, kind, title, error.message, error.remedy)
    fault, _, remedy = str(error).partition(". ")
    return _document(status, kind, title, f"{fault.rstrip('.')}.", remedy)


def refusal(error: PodlaneError) -> JSONResponse:
    """The same as a response."""
    response = _response(problem_of(error))
    if isinstance(error, TooManyError):
        response.headers["Retry-After"] = str(error.wait)
    return response


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PodlaneError)
    return refusal(error)


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = [
        PolicyProblem(path=".".join(map(str, each["loc"]))[:_LONGEST_TOLD], message=str(each["msg"]), remedy="")
        for each in error.errors()[:_MOST_TOLD]
    ]
    return problem_response(
        422, "invalid", "The request is wrong", f"{len(wrong)} values are wrong.", "See /openapi.json.", wrong
    )


def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    remedy = _OTHERS.get(error.status_code, "See /openapi.json.")
    response = problem_response(error.status_code, "http", str(error.detail), str(error.detail), remedy)
    response.headers.update(error.headers or {})
    return response


def _broken(_request: Request, _error: Exception) -> Response:
    """A bug of ours. The log has it; nobody else needs its details."""
    return problem_response(500, "bug", "We made a mistake", "The control plane failed.", "Look into its log.")


def install(app: FastAPI) -> None:
    """Have an application answer errors so."""
    for kind in _KINDS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(Exception, _broken)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For an operation's documentation: which errors it answers, besides those of every operation."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        status: {"description": "A problem", "content": {_MEDIA_TYPE: schema}}
        for status in (400, 401, 403, 404, 422, 429, 503, *statuses)
    }
