"""Which control planes the user has logged in to: ``contexts.yaml``, for its owner alone.

It is in ``$PODLANE_CONFIG``, else in ``$XDG_CONFIG_HOME/podlane``, else in ``~/.config/podlane``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from traffic_policy.errors import ConfigError

DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class FleetContext:
    """A control plane, a token for it, and the tenant that verbs are about. ``ca``: a file to check its certificate.

    A token of an identity provider ends at ``expires_at`` (Unix seconds), and ``refresh`` gets another.
    """

    url: str
    token: str
    tenant: str
    ca: str = ""
    refresh: str = ""
    expires_at: float = 0.0


@dataclass(slots=True)
class Contexts:
    """By name, and which is meant where none is named."""

    current: str = DEFAULT
    contexts: dict[str, FleetContext] = field(default_factory=dict)

    def find(self, name: str | None) -> FleetContext:
        """Raises :class:`ConfigError`."""
        found = self.contexts.get(name or self.current)
        if found is None:
            raise ConfigError(f"There is no context {name or self.current}. Log in by: podlane login URL")
        return found


def config_file() -> Path:
    """Where the contexts are."""
    folder = os.environ.get("PODLANE_CONFIG")
    if folder:
        return Path(folder) / "contexts.yaml"
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "podlane" / "contexts.yaml"


def load_contexts() -> Contexts:
    """Raises :class:`ConfigError`."""
    path = config_file()
    try:
        document = yaml.safe_load(path.read_text())
        return _parsed(document)
    except FileNotFoundError:
        return Contexts()
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}). Remove it and log in again.") from None


def _parsed(document: Mapping[str, Any]) -> Contexts:
    return Contexts(
        str(document["current"]), {str(name): FleetContext(**each) for name, each in document["contexts"].items()}
    )


def save_contexts(contexts: Contexts) -> None:
    """Raises :class:`ConfigError`."""
    path = config_file()
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
            yaml.safe_dump(asdict(contexts), stream, sort_keys=False)
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name a folder by PODLANE_CONFIG.") from None
