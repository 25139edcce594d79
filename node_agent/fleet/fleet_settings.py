"""How an agent reaches a control plane, and proves who it is. Apart from the rest, which takes libraries that an agent
without a control plane does not need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from traffic_policy.errors import ConfigError

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_TEXT: Final = re.compile(r"(?P<token>.+)\.(?P<digest>[0-9a-fA-F]{64})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a control plane listens for agents."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class JoinProof:
    """``text`` is what the control plane has issued; ``root_digest`` is the SHA-256 of its root's SubjectPublicKeyInfo,
    in hexadecimal. Empty: the root is known otherwise."""

    text: str
    root_digest: str = ""

    @classmethod
    def parse(cls, text: str) -> JoinProof:
        """As the control plane prints it, or without a digest."""
        found = _TEXT.fullmatch(text.strip())
        return cls(text.strip()) if found is None else cls(found["token"], found["digest"].lower())


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """``join_token`` is its text, or ``@`` and the path of a file with it. ``node`` empty: the control plane knows it
    by the ServiceAccount's token. ``data`` is a folder that outlives a reboot. ``labels`` are the node's, besides those
    that a Kubernetes Node has."""

    addresses: tuple[Address, ...]
    data: Path
    join_token: str = ""
    service_account_token: Path | None = None
    ca: Path | None = None
    cluster: str = ""
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def read_join_token(self) -> JoinProof | None:
        """None: there is none. Raises :class:`ConfigError`. Blocks."""
        text = self.join_token
        if text.startswith("@"):
            text = _read(Path(text[1:]), "--join-token")
            if not text.strip():
                raise ConfigError(f"--join-token: {self.join_token[1:]} is empty. Put what was printed there.")
        token = JoinProof.parse(text) if text.strip() else None
        if token is not None and not token.root_digest and self.ca is None:
            raise ConfigError(
                "The join token has no digest of the control plane's root. Give it as it was printed, or name the root "
                "by --control-plane-ca."
            )
        return token

    def read_service_account_token(self) -> str | None:
        """None: there is none. Kubernetes replaces it each hour. Raises :class:`ConfigError`. Blocks."""
        if self.service_account_token is None:
            return None
        return _read(self.service_account_token, "--service-account-token").strip()

    def read_ca(self) -> str | None:
        """Roots in PEM; None: none are named. Raises :class:`ConfigError`. Blocks."""
        return None if self.ca is None else _read(self.ca, "--control-plane-ca")


def parse_addresses(text: str) -> tuple[Address, ...]:
    """``HOST:PORT[,HOST:PORT]``. Raises :class:`ConfigError`."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _ADDRESS.fullmatch(part)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigError(f"--control-plane: {part!r} is not an address. Write HOST:PORT, as cp.example.com:15181.")
        found.append(Address(match["host"].strip("[]"), int(match["port"])))
    return tuple(dict.fromkeys(found))


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{option}: {path} cannot be read: {reason}.") from None
