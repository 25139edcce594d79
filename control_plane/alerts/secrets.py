"""Secrets of channels: each in a file TENANT.CHANNEL of one folder, put there by who runs the control plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.domain.names import is_name

_LONGEST: Final = 4096


class SecretFileError(Exception):
    """The file is there, and cannot be used. The message has no secret."""


@dataclass(frozen=True, slots=True)
class ChannelSecrets:
    """Read each time, so that a new one is used at once. None: there is no folder."""

    folder: Path | None = None

    def secret_of(self, tenant: str, channel: str) -> str:
        """Empty: there is none. Raises :class:`SecretFileError`."""
        if self.folder is None or not (is_name(tenant) and is_name(channel)):
            return ""
        try:
            with (self.folder / f"{tenant}.{channel}").open(encoding="utf-8") as file:
                text = file.read(_LONGEST + 1).strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            told = getattr(error, "strerror", None) or "it is no text"
            raise SecretFileError(f"the secret in {tenant}.{channel} cannot be read: {told}") from None
        if len(text) > _LONGEST or not text.isprintable():
            raise SecretFileError(f"the secret in {tenant}.{channel} is too long, or has more than one line")
        return text
