"""A certificate and its key from memory, for TLS.

OpenSSL reads files, so it gets anonymous ones (memfd_create(2)), which also work on a read-only root file system and
leave nothing behind.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from daemon.errors import CertificateError


def load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """``load_cert_chain`` for PEM in memory. Raises :class:`CertificateError`."""
    with _memory_file("certificate", chain) as certificate_path, _memory_file("key", key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise CertificateError(_reason(error)) from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return "The certificate and the key do not belong together. Give the key that the certificate was made for."
    return f"The certificate or its key cannot be used ({reason}). Give both in PEM form, the key without a password."


def _no_password() -> str:
    # Without this OpenSSL would prompt for it on the terminal, and wait.
    raise ValueError("the key is encrypted")


@contextmanager
def _memory_file(name: str, data: bytes) -> Iterator[str]:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
