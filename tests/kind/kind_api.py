"""The API server of a kind cluster for what kubectl is too slow for: where it is, and its administrator's certificate."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kind_cluster import KindCluster
from pki import KeyPair


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files with what a kubeconfig embeds."""

    bundle: Path
    pair: KeyPair

    def client(self, _user: str, _group: str) -> KeyPair:
        """The administrator's, who it is for."""
        return self.pair


@dataclass(frozen=True, slots=True)
class Administrator:
    """As much of a cluster as :class:`rest.Rest` asks for."""

    url: str
    pki: Credentials


def administrator(cluster: KindCluster, folder: Path) -> Administrator:
    """Write the credentials of the cluster's kubeconfig into a folder, readable by its owner only."""
    config: dict[str, Any] = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--output=json"))
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]

    def file(name: str, encoded: str) -> Path:
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(encoded))
        return path

    bundle = file("ca.crt", server["certificate-authority-data"])
    pair = KeyPair(file("admin.crt", user["client-certificate-data"]), file("admin.key", user["client-key-data"]))
    return Administrator(server["server"], Credentials(bundle, pair))
