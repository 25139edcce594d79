"""The error tree of ``sidecar``: every error says what is wrong and what to do about it."""

from __future__ import annotations


class SidecarError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(SidecarError):
    """Settings that cannot be used."""


class PrivilegeError(SidecarError):
    """The process lacks a capability it needs; the text names it and how to get it."""


class PortInUseError(SidecarError):
    """A listener's port is taken, by a second instance or by somebody else."""


class RulesetError(SidecarError):
    """The capture rules cannot be installed, verified or removed."""


class QueueError(SidecarError):
    """The queue by which the kernel shows packets cannot be used."""


class ConntrackError(SidecarError):
    """The kernel's table of connections cannot be read or changed."""


class InstanceRunningError(SidecarError):
    """Another Podlane already works in this network namespace."""


class WorkersError(SidecarError):
    """Worker processes cannot be had, or not be kept alive."""


class SupervisorError(SidecarError):
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
