"""Exceptions of ``daemon``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class PortInUseError(PodlaneError):
    """A listener's port is taken, by a second instance or by another program."""


class CertificateError(PodlaneError):
    """A certificate or key cannot be read, or they do not match."""


def single(
    group: BaseExceptionGroup[BaseException], kinds: type[Exception] | tuple[type[Exception], ...]
) -> BaseException | None:
    """Return the first error of a group, at any depth, if all of them are of these kinds; else None."""
    ours, others = group.split(kinds)
    if ours is None or others is not None:
        return None
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
