"""What tenants, clusters and policies can be called."""

from __future__ import annotations

import re
from typing import Final

from control_plane.domain.errors import InvalidError

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A label of RFC 1123, as Kubernetes names things."""


def is_name(name: str) -> bool:
    """Whether a tenant, a cluster or a policy can have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str) -> None:
    """Raises :class:`InvalidError`."""
    if not is_name(name):
        raise InvalidError(
            f"{name[:70]!r} is not a name for {what}.",
            "Write at most 63 lower-case letters, digits and hyphens, the first and last no hyphen.",
        )
