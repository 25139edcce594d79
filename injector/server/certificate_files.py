"""Certificates and keys in files, such as a mounted Secret of cert-manager or an administrator, reloaded on change.

The kubelet replaces a mounted Secret by swapping a symbolic link (``..data``), so the identity of the file behind each
path is checked, by a stat(2) a second. What cannot be used leaves the old in place: only half of a change may be
visible.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from daemon.errors import CertificateError
from daemon.log import Logger

_LOOK_EVERY: Final = 1.0

log = Logger()

_Version = tuple[tuple[int, int, int, int], ...]


class CertificateFiles:
    """Gives what changed files hold, one after the other, to ``use``, which returns whether that is new.

    ``remedy`` is for files that cannot be read; ``on_load`` is called each time with whether they could be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        use: Callable[..., bool],
        remedy: str,
        on_load: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._paths = paths
        self._use = use
        self._remedy = remedy
        self._on_load = on_load
        self._seen: _Version | None = None

    def load_changed(self) -> bool:
        """Load changed files. Return whether what they hold is new.

        Raises :class:`CertificateError` once for each unusable version of the files.
        """
        try:
            version = tuple(_version(path) for path in self._paths)
            if version == self._seen:
                return False
            self._seen = version
            contents = [path.read_bytes() for path in self._paths]
        except OSError as error:
            seen, self._seen = self._seen, ()
            if seen == ():
                return False
            self._on_load(False)
            raise CertificateError(f"{error.filename} cannot be read: {error.strerror}. {self._remedy}") from None
        try:
            changed = self._use(*contents)
        except CertificateError as error:
            self._on_load(False)
            raise CertificateError(f"{', '.join(map(str, self._paths))}: {error}") from None
        self._on_load(True)
        return changed

    async def follow(self) -> None:
        """Check periodically, until cancelled."""
        while True:
            await trio.sleep(_LOOK_EVERY)
            try:
                changed = self.load_changed()
            except CertificateError as error:
                log.error("the certificate is not exchanged; the old one stays", error=str(error))
            else:
                if changed:
                    log.info("a new certificate is used", files=", ".join(map(str, self._paths)))


def _version(path: Path) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
