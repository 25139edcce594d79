"""The error tree of ``injector``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class DefaultsError(PodlaneError, ValueError):
    """A setting for the injected containers cannot be used."""


class InjectionError(PodlaneError, ValueError):
    """A Pod's limits cannot be honoured by injection, whatever its annotations say."""


class SharedPolicyError(PodlaneError, LookupError):
    """The ConfigMap with a shared policy cannot be read now; whether it exists is not known."""


class ManifestError(PodlaneError, ValueError):
    """A manifest cannot be read, or cannot be changed without touching what must stay."""


class CertificateError(PodlaneError):
    """A certificate or key cannot be read, or they do not belong together."""


class ListenError(PodlaneError):
    """The server cannot listen where it should."""


class ApiAccessError(PodlaneError):
    """How to reach the API server cannot be found out, from the Pod or from the kubeconfig."""


class ApiError(PodlaneError):
    """A request to the API server failed. ``status`` is its HTTP code, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(ApiError):
    """There is no such object."""


class ConflictError(ApiError):
    """Somebody else changed the object meanwhile, or made it first: read it again."""
