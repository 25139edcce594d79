"""Where roots are kept: a folder of the control plane's own, or files that others give it, as a mounted Secret."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from control_plane.certificates.authority import Authority, Root, new_root, read_root
from daemon.errors import CertificateError

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")


class RootFolder:
    """Roots in ``N.pem``, each a certificate and its key, the oldest with the lowest number. For their owner alone."""

    def __init__(self, folder: Path, trust_domain: str) -> None:
        self._folder = folder
        self._trust_domain = trust_domain

    def load(self, now: datetime) -> Authority:
        """The roots there are; the first is made where there is none. Raises :class:`CertificateError`."""
        with self._explained(), self._locked():
            roots = self._read()
            if not roots:
                roots = [self._write(1, new_root(now))]
            return Authority(roots, self._trust_domain)

    def rotate(self, now: datetime) -> Root:
        """Make the next root, and forget what is trusted no more. Raises :class:`CertificateError`."""
        with self._explained(), self._locked():
            roots = self._read()
            kept = Authority(roots, self._trust_domain).trusted(now) if roots else []
            if len(kept) > 1:
                raise CertificateError(
                    f"A rotation is under way: {kept[-1].made:%F %T} UTC was the last. "
                    f"Wait until two days after it, when the one before is trusted no more."
                )
            paths = self._paths()
            made = self._write((int(paths[-1].stem) if paths else 0) + 1, new_root(now))
            for path, root in zip(paths, roots, strict=True):
                if root not in kept:
                    path.unlink()
            return made

    def _paths(self) -> list[Path]:
        return sorted((path for path in self._folder.glob("*.pem") if path.stem.isdecimal()), key=lambda p: int(p.stem))

    def _read(self) -> list[Root]:
        return [read_root(text, text, str(path)) for path in self._paths() for text in (path.read_bytes(),)]

    def _write(self, number: int, root: Root) -> Root:
        path = self._folder / f"{number}.pem"
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
            stream.write(root.pem + root.key_pem)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return root

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two processes that start at once must not make two roots."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CertificateError(
                f"{self._folder}: {error.strerror or error}. Name a folder that can be written, by --state."
            ) from None


class RootFiles:
    """A file with certificates and one with the key of one of them. All are trusted, and that one signs.

    So a root is rotated by hand: add the next one's certificate; after 24 h change the key; after 48 h remove the old
    one.
    """

    def __init__(self, certificates: Path, key: Path, trust_domain: str) -> None:
        self._certificates = certificates
        self._key = key
        self._trust_domain = trust_domain

    def load(self, now: datetime) -> Authority:  # noqa: ARG002 - as RootFolder
        """Raises :class:`CertificateError`."""
        what = f"--ca-certificate {self._certificates}, --ca-key {self._key}"
        try:
            texts, key = _PEM.findall(self._certificates.read_bytes()), self._key.read_bytes()
        except OSError as error:
            raise CertificateError(f"{what}: {error.strerror or error}. Name files that can be read.") from None
        roots, wrong = [], CertificateError(f"{what}: there is no certificate. Give a CA's, in PEM.")
        for text in texts:
            try:
                roots.append(read_root(text, key, what))
            except CertificateError as error:
                wrong = error
                roots.append(read_root(text, None, what))
        if not any(root.key for root in roots):
            raise wrong
        return Authority(roots, self._trust_domain)


RootStore = RootFolder | RootFiles


class LoadedAuthority:
    """The authority as it is now: roots are read again now and then, so that a rotation needs no restart. Used by any
    thread."""

    def __init__(self, store: RootStore, now: datetime) -> None:
        """Raises :class:`CertificateError`."""
        self._store = store
        self.current = store.load(now)
        self._told = self._state(now)

    def refresh(self, now: datetime) -> bool:
        """Read the roots again. Whether others are trusted now, or another signs. Raises :class:`CertificateError`."""
        self.current = self._store.load(now)
        before, self._told = self._told, self._state(now)
        return before != self._told

    def _state(self, now: datetime) -> tuple[str, ...]:
        signer = self.current.signer(now)
        return (signer.digest, *(root.digest for root in self.current.trusted(now)))
