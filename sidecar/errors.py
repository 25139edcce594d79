"""The error tree of ``sidecar``: every error says what is wrong and what to do about it."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class WorkersError(PodlaneError):
    """Worker processes cannot be had, or not be kept alive."""


class SupervisorError(PodlaneError):
    """The supervisor of a sidecar cannot be asked."""


def single(
    group: BaseExceptionGroup[BaseException], kinds: type[Exception] | tuple[type[Exception], ...]
) -> BaseException | None:
    """The first error of a group, however deep, when all that are in it are of these kinds; else None."""
    ours, others = group.split(kinds)
    if ours is None or others is not None:
        return None
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
