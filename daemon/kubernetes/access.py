"""Finds the API server's address and credentials, in a Pod or a kubeconfig. Reads files, opens no connection."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from daemon.certificate_chain import load_chain
from daemon.errors import CertificateError
from daemon.kubernetes.errors import ApiAccessError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The directory of a Pod's token, CA and namespace
(https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/)."""
_REFUSED_USER_KEYS: Final = ("exec", "auth-provider", "username")


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """An API server and credentials for it. ``token`` reads the bearer token each time, since the kubelet rotates
    it."""

    host: str
    port: int
    base_path: str
    tls: Callable[[], ssl.SSLContext] | None
    server_name: str
    token: Callable[[], str] | None
    namespace: str
    source: str


def find_access(kubeconfig: Path | None, context: str | None, environment: Mapping[str, str]) -> ApiAccess | None:
    """From the kubeconfig if one is given, else from the Pod; None outside a cluster. Raises
    :class:`ApiAccessError`."""
    if kubeconfig is not None:
        return from_kubeconfig(kubeconfig, context)
    if "KUBERNETES_SERVICE_HOST" in environment:
        return from_pod(environment)
    return None


def from_pod(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> ApiAccess:
    """Access with the Pod's service account. Raises :class:`ApiAccessError`."""
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not port.isdecimal():
        raise ApiAccessError(
            f"KUBERNETES_SERVICE_PORT is {port!r}, which is not a port. The kubelet sets it; unset it."
        )
    try:
        namespace = (folder / "namespace").read_text().strip()
        (folder / "token").read_bytes()
    except OSError as error:
        raise ApiAccessError(
            f"The Pod's service account cannot be read: {error.strerror} ({error.filename}). "
            "Set automountServiceAccountToken: true on the Pod, or name a file with --kubeconfig."
        ) from None
    return ApiAccess(
        host=host,
        port=int(port),
        base_path="",
        tls=_TlsOfFile(folder / "ca.crt"),
        server_name=host,
        token=lambda: _read_token(folder / "token"),
        namespace=namespace,
        source="the Pod's service account",
    )


def from_kubeconfig(path: Path, context: str | None = None) -> ApiAccess:
    """Access by a kubeconfig's context, the current one by default. Raises :class:`ApiAccessError`.

    Client certificates, tokens and token files are supported; exec plugins and passwords are not.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ApiAccessError(f"{path} cannot be read: {error.strerror}. Name another with --kubeconfig.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ApiAccessError(f"{path} is not a kubeconfig: not valid YAML. Name another with --kubeconfig.") from None
    file = _Kubeconfig(path, document if isinstance(document, dict) else {})
    chosen = file.entry("contexts", "context", context or str(file.document.get("current-context") or ""))
    cluster = file.entry("clusters", "cluster", str(chosen.get("cluster") or ""))
    user = file.entry("users", "user", str(chosen.get("user") or "")) if chosen.get("user") else {}
    url = urlsplit(str(cluster.get("server") or ""))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ApiAccessError(
            f"{path}: {cluster.get('server')!r} is not a server. Write an URL, as in https://host:6443."
        )
    for key in _REFUSED_USER_KEYS:
        if key in user:
            raise ApiAccessError(f"{path}: users with {key} are not known here. Use a client certificate or a token.")
    if "proxy-url" in cluster:
        raise ApiAccessError(f"{path}: proxy-url is not known here. Name a server that is reached directly.")
    return ApiAccess(
        host=url.hostname,
        port=url.port or (443 if url.scheme == "https" else 80),
        base_path=url.path.rstrip("/"),
        tls=file.tls(cluster, user) if url.scheme == "https" else None,
        server_name=str(cluster.get("tls-server-name") or url.hostname),
        token=file.token(user),
        namespace=str(chosen.get("namespace") or "default"),
        source=str(path),
    )


@dataclass(frozen=True, slots=True)
class _Kubeconfig:
    path: Path
    document: dict[str, Any]

    def entry(self, plural: str, singular: str, name: str) -> dict[str, Any]:
        entries = self.document.get(plural)
        named = {
            str(item.get("name")): item.get(singular) or {}
            for item in (entries if isinstance(entries, list) else [])
            if isinstance(item, dict)
        }
        found = named.get(name)
        if not isinstance(found, dict):
            there = f"It has {', '.join(sorted(named))}." if named else f"It has no {plural}."
            remedy = "Choose one with --context." if singular == "context" else "Mend the file, or name another."
            raise ApiAccessError(f"{self.path}: there is no {singular} {name!r}. {there} {remedy}")
        return found

    def data(self, entry: Mapping[str, Any], key: str) -> bytes | None:
        """The value of ``KEY-data`` in base64, else the content of the file that ``KEY`` names."""
        if entry.get(f"{key}-data"):
            try:
                return base64.b64decode(str(entry[f"{key}-data"]), validate=True)
            except binascii.Error:
                raise ApiAccessError(f"{self.path}: {key}-data is not base64. Mend the file.") from None
        if not entry.get(key):
            return None
        try:
            return (self.path.parent / str(entry[key])).read_bytes()  # absolute paths stay unchanged
        except OSError as error:
            raise ApiAccessError(
                f"{self.path}: {key} cannot be read: {error.strerror} ({error.filename}). Mend the file."
            ) from None

    def tls(self, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Callable[[], ssl.SSLContext]:
        authority = self.data(cluster, "certificate-authority")
        try:
            context = ssl.create_default_context(cadata=authority.decode() if authority else None)
            if cluster.get("insecure-skip-tls-verify"):
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            certificate, key = self.data(user, "client-certificate"), self.data(user, "client-key")
            if certificate and key:
                load_chain(context, certificate, key)
        except (ssl.SSLError, ValueError, CertificateError) as error:
            raise ApiAccessError(f"{self.path}: a certificate cannot be used: {error}") from None
        return lambda: context

    def token(self, user: Mapping[str, Any]) -> Callable[[], str] | None:
        if user.get("tokenFile"):
            file = self.path.parent / str(user["tokenFile"])
            return lambda: _read_token(file)
        if user.get("token"):
            token = str(user["token"])
            return lambda: token
        return None


class _TlsOfFile:
    """A context that trusts a CA file, made again when the file changes (the kubelet updates it with the cluster's)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made_of: tuple[int, int, int] | None = None
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        try:
            status = os.stat(self._path)
            made_of = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._context is None or made_of != self._made_of:
                self._context = ssl.create_default_context(cafile=str(self._path))
                self._made_of = made_of
        except OSError as error:  # ssl.SSLError is a subclass
            raise ApiAccessError(
                f"The API server's CA cannot be read: {error.strerror or error} ({self._path}). The kubelet mounts it."
            ) from None
        return self._context


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ApiAccessError(f"The token cannot be read: {error.strerror} ({path}). The kubelet mounts it.") from None
