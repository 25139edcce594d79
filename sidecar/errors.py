"""Exceptions of ``sidecar``. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class WorkersError(PodlaneError):
    """Worker processes cannot be started or kept alive."""


class SupervisorError(PodlaneError):
    """The sidecar's supervisor cannot be reached."""


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
