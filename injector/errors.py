"""Exceptions of ``injector``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class DefaultsError(PodlaneError, ValueError):
    """A setting for the injected containers is invalid."""


class InjectionError(PodlaneError, ValueError):
    """Injection cannot honour the limits of a Pod, whatever its annotations are."""


class SharedPolicyError(PodlaneError, LookupError):
    """The ConfigMap of a shared policy cannot be read at present; it may or may not exist."""


class NamespaceError(PodlaneError, LookupError):
    """A Namespace cannot be read at present, so that it is not known what its Pods may have."""


class ManifestError(PodlaneError, ValueError):
    """A manifest cannot be read, or cannot be edited without changing other text."""


class CertificateError(PodlaneError):
    """A certificate or key cannot be read, or they do not match."""


class ListenError(PodlaneError):
    """The server cannot listen on its address."""


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
