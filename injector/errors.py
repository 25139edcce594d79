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


class ListenError(PodlaneError):
    """The server cannot listen on its address."""


class WorkEndedError(PodlaneError):
    """A work's process ended without an answer. ``status``: as of :class:`subprocess.Popen`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
