"""Who may do what: roles, what each may do, and the text of tokens. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PLATFORM: Final = "platform"
"""The tenant of those who run the control plane: its administrators may do everything in every tenant."""
_TOKEN: Final = re.compile(r"podlane-([a-z0-9]+(?:-[a-z0-9]+)*)_([0-9a-f]{16})_([A-Za-z0-9-]{43})")
"""Tenant, id, secret. An underscore is in none of them."""
_SECRETS: Final = (
    (re.compile(r"(podlane-[a-z0-9-]+_[0-9a-f]+_)[A-Za-z0-9-]+"), r"\1..."),
    (re.compile(r"eyJ[\w-]*\.[\w-]+(\.[\w-]*)*", re.ASCII), "(a JWT)"),
)
"""What has a secret, and how it is told without: tokens of ours, and JSON Web Tokens (RFC 7519)."""


class Role(StrEnum):
    """What the owner of a token may do in its tenant. Each may do what those before it may."""

    VIEWER = "viewer"
    """See everything but secrets, of which nobody sees any."""
    EDITOR = "editor"
    """Draft policies."""
    OPERATOR = "operator"
    """Put them in force."""
    ADMINISTRATOR = "administrator"
    """Decide about tokens, clusters and agents."""


class Operation(StrEnum):
    """What can be asked for."""

    READ = "read"
    DRAFT = "draft"
    PUBLISH = "publish"
    ADMINISTER = "administer"
    GOVERN = "govern"
    """Create, list and close tenants: the platform's administrators alone."""


_LEAST: Final = {
    Operation.READ: Role.VIEWER,
    Operation.DRAFT: Role.EDITOR,
    Operation.PUBLISH: Role.OPERATOR,
    Operation.ADMINISTER: Role.ADMINISTRATOR,
    Operation.GOVERN: Role.ADMINISTRATOR,
}
_RANK: Final = {role: rank for rank, role in enumerate(Role)}


def highest(roles: Iterable[Role]) -> Role | None:
    """The role that may do most; None: there is none."""
    return max(roles, key=_RANK.__getitem__, default=None)


def may(role: Role, home: str, operation: Operation, tenant: str) -> bool:
    """Whether a token of the tenant ``home`` with this role may do it in ``tenant``."""
    if home == PLATFORM and role is Role.ADMINISTRATOR:
        return True
    return home == tenant and operation is not Operation.GOVERN and _RANK[role] >= _RANK[_LEAST[operation]]


def without_secrets(text: str) -> str:
    """A text that somebody else has written, for logs: tokens that are in it are cut."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


@dataclass(frozen=True, slots=True)
class TokenText:
    """What a client sends: the id says which token it is, the secret that it is the owner's."""

    tenant: str
    id: str
    secret: str

    def __str__(self) -> str:
        return f"podlane-{self.tenant}_{self.id}_{self.secret}"

    @classmethod
    def parse(cls, text: str) -> TokenText | None:
        """None: this is no token of ours."""
        found = _TOKEN.fullmatch(text)
        return cls(*found.groups()) if found else None

    @property
    def digest(self) -> str:
        """What is stored. The secret has 256 random bits, so that a fast hash is enough."""
        return hashlib.sha256(self.secret.encode()).hexdigest()
