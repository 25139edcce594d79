"""What a control plane begins with: the platform's tenant, its first administrator, and a tenant to work with."""

from __future__ import annotations

import secrets
from typing import Final

from control_plane.domain.access import PLATFORM, Role, TokenText
from control_plane.domain.commands import CreateTenant, IssueToken
from control_plane.domain.errors import StateConflictError
from control_plane.service import Circumstances, ControlPlane

DEFAULT_TENANT: Final = "default"
_AUTHOR: Final = "podlane control-plane"


def new_token(tenant: str) -> TokenText:
    """A token that nobody can guess."""
    return TokenText(tenant, secrets.token_hex(8), secrets.token_urlsafe(32).replace("_", "-"))


def first_token(plane: ControlPlane) -> TokenText | None:
    """Make what is missing. The first administrator's token, which is known to nobody else; None: there was one."""
    by = Circumstances(_AUTHOR, reason="first start", key="bootstrap")
    if not _create(plane, PLATFORM, "The platform's administrators"):
        with plane.reading(PLATFORM) as platform:
            if platform.tokens:
                return None
    token = new_token(PLATFORM)
    done = plane.carry_out(PLATFORM, IssueToken(token.id, "first administrator", Role.ADMINISTRATOR, token.digest), by)
    _create(plane, DEFAULT_TENANT, "")
    return None if done.replayed else token


def another_token(plane: ControlPlane) -> TokenText:
    """A further administrator's token, for those who have the database and have lost the first."""
    first_token(plane)
    token = new_token(PLATFORM)
    by = Circumstances(_AUTHOR, reason="--new-token")
    plane.carry_out(PLATFORM, IssueToken(token.id, "administrator", Role.ADMINISTRATOR, token.digest), by)
    return token


def _create(plane: ControlPlane, tenant: str, title: str) -> bool:
    try:
        plane.carry_out(tenant, CreateTenant(title), Circumstances(_AUTHOR, reason="first start"))
    except StateConflictError:
        return False
    return True
