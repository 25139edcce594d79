"""A certificate and key in files, such as a mounted Secret of cert-manager or an administrator, reloaded on change.

The kubelet replaces a mounted Secret by swapping a symbolic link (``..data``), so the identity of the file behind each
path is checked, by two stat(2) a second. An unusable pair leaves the old one in place: only half of a change may be
visible.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from daemon.errors import CertificateError
from daemon.log import Logger
from injector.server.tls import ServerTls

_LOOK_EVERY: Final = 1.0

log = Logger()

_Version = tuple[tuple[int, int, int, int], ...]


class CertificateFiles:
    """Loads a changed pair into ``tls``. ``on_load`` is called each time with whether it was usable."""

    def __init__(
        self, certificate: Path, key: Path, tls: ServerTls, on_load: Callable[[bool], None] = lambda _ok: None
    ) -> None:
        self._paths = certificate, key
        self._tls = tls
        self._on_load = on_load
        self._seen: _Version | None = None

    def load_changed(self) -> bool:
        """Load changed files. Return whether a new certificate is served.

        Raises :class:`CertificateError` once for each unusable version of the files.
        """
        try:
            version = tuple(_version(path) for path in self._paths)
            if version == self._seen:
                return False
            self._seen = version
            chain, key = (path.read_bytes() for path in self._paths)
        except OSError as error:
            seen, self._seen = self._seen, ()
            if seen == ():
                return False
            self._on_load(False)
            raise CertificateError(
                f"{error.filename} cannot be read: {error.strerror}. Name the files with --certificate and --key, "
                "or have the injector make its own with --secret."
            ) from None
        try:
            changed = self._tls.use(chain, key)
        except CertificateError as error:
            self._on_load(False)
            raise CertificateError(f"{self._paths[0]}, {self._paths[1]}: {error}") from None
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
                if changed and self._tls.served:
                    log.info("a new certificate is served", expires=self._tls.served.not_valid_after_utc.isoformat())


def _version(path: Path) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
