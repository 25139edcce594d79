"""The certificates and keys of a test's cluster, made as kubeadm makes a real one's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate (with its chain) and its private key, as files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ClusterPki:
    """One authority for servers and clients, and a key for tokens."""

    folder: Path
    authority: trustme.CA
    server: KeyPair
    tokens: KeyPair
    """What signs the tokens of ServiceAccounts, and (no certificate, a bare public key) what checks them."""

    @property
    def bundle(self) -> Path:
        return self.folder / "ca.crt"

    @classmethod
    def make(cls, folder: Path) -> Self:
        folder.mkdir()
        authority = trustme.CA(organization_name="Podlane's tests")
        authority.cert_pem.write_to_path(folder / "ca.crt")
        names = ("127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        server = _write(authority.issue_cert(*names), folder / "apiserver")
        tokens = KeyPair(folder / "service-accounts.pub", folder / "service-accounts.key")
        key = ec.generate_private_key(ec.SECP256R1())
        tokens.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        tokens.certificate.write_bytes(public)
        return cls(folder, authority, server, tokens)

    def client(self, user: str, group: str) -> KeyPair:
        """A client certificate: Kubernetes takes the user from CN and the group from O."""
        # With a name of a host that nobody has: trustme's empty list of names is critical, and Go refuses an empty one.
        issued = self.authority.issue_cert("client.invalid", common_name=user, organization_name=group)
        return _write(issued, self.folder / user.replace(":", "-"))


def _write(issued: trustme.LeafCert, path: Path) -> KeyPair:
    pair = KeyPair(path.with_suffix(".crt"), path.with_suffix(".key"))
    pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(pair.key)
    return pair
