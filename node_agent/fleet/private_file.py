"""Small files that only root may read, and that are there wholly or not at all, also after the power has failed."""

from __future__ import annotations

import os
from pathlib import Path

from traffic_policy.errors import ConfigError


def private_folder(path: Path) -> Path:
    """Raises :class:`ConfigError` if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}. Name another folder by --data.") from None
    return path


def write_private(path: Path, content: bytes) -> None:
    """Replace a file. Raises OSError; what was there stays then."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
