"""Errors of talking to an API server. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class ApiAccessError(PodlaneError):
    """The address or credentials of the API server cannot be found, neither in the Pod nor in the kubeconfig."""


class ApiError(PodlaneError):
    """A request to the API server failed. ``status`` is its HTTP status code, 0 if there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(ApiError):
    """The object does not exist."""


class ConflictError(ApiError):
    """Another client changed or created the object in the meantime: read it again."""


class GoneError(ApiError):
    """The API server no longer has what changed since then: list again."""
