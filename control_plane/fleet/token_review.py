"""Asks a cluster's API server whose token an agent has shown, and on which node the token's Pod is.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/. The node's name is in
the token from Kubernetes 1.30 on (feature ServiceAccountTokenPodNodeInfo), put there by the API server.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from control_plane.domain.tenant import ClusterTrust

AUDIENCE: Final = "podlane"
_PATIENCE: Final = 5.0
_LONGEST_TOKEN: Final = 16_384
_LONGEST_ANSWER: Final = 262_144
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
_NODE: Final = "authentication.kubernetes.io/node-name"
_POD: Final = "authentication.kubernetes.io/pod-name"


class ReviewError(Exception):
    """The token is not taken. ``passing``: trying again may help. The message has the remedy."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(message)


class TokenReviewer:
    """Blocks. Any thread may use it. What lets it ask is read from files, and nowhere else."""

    def __init__(self, folder: Path) -> None:
        """``folder`` has a file TENANT.CLUSTER for each cluster: a token of its own that may create tokenreviews there
        (the ClusterRole system:auth-delegator). It is read for each review, so that it may be replaced."""
        self._folder = folder

    def node_of(self, token: str, tenant: str, cluster: str, trust: ClusterTrust) -> str:
        """The node of the Pod whose token it is. Raises :class:`ReviewError`."""
        if len(token) > _LONGEST_TOKEN or not _TOKEN.fullmatch(token):
            raise ReviewError("This is no token of a ServiceAccount. Mount a projected one for the audience podlane.")
        status = self._review(token, tenant, cluster, trust)
        if not status.get("authenticated"):
            raise ReviewError(
                "The cluster's API server does not know the ServiceAccount's token, or it has expired. Mount a "
                f"projected one for the audience {AUDIENCE}."
            )
        if AUDIENCE not in _texts(status.get("audiences")):
            raise ReviewError(f"The token is not for the audience {AUDIENCE}. Mount a projected one that is.")
        user = _object(status.get("user"))
        expected = "system:serviceaccount:" + trust.service_account.replace("/", ":", 1)
        if user.get("username") != expected:
            raise ReviewError(
                f"The token is of {str(user.get('username'))[:300]!r}. Agents of this cluster have the ServiceAccount "
                f"{trust.service_account}."
            )
        extra = _object(user.get("extra"))
        nodes, pods = _texts(extra.get(_NODE)), _texts(extra.get(_POD))
        if len(nodes) != 1 or not pods:
            # A token that is bound to no Pod can be had by whoever may create tokens, for any node.
            raise ReviewError(
                "The token does not say on which node its Pod is. Mount a projected one, on Kubernetes 1.30 or later; "
                "or use a join token."
            )
        return nodes[0]

    def _review(self, token: str, tenant: str, cluster: str, trust: ClusterTrust) -> Mapping[str, Any]:
        try:
            own = (self._folder / f"{tenant}.{cluster}").read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ReviewError(
                f"The control plane has no token to ask the API server of {cluster}. Put one that may create "
                f"tokenreviews into {tenant}.{cluster} in its --reviewers folder.",
                passing=True,
            ) from None
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        headers = {"Authorization": f"Bearer {own}", "Content-Type": "application/json"}
        url = urlsplit(trust.url)
        try:
            tls = ssl.create_default_context(cadata=trust.ca)
            connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=_PATIENCE, context=tls)
            try:
                connection.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", json.dumps(asked), headers)
                answer = connection.getresponse()
                text = answer.read(_LONGEST_ANSWER)
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            told = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or type(error).__name__
            raise ReviewError(
                f"The API server of {cluster} cannot be asked: {told}. See `podlane clusters trust`.", passing=True
            ) from None
        if answer.status != http.client.CREATED:
            raise ReviewError(
                f"The API server of {cluster} answers {answer.status} to a TokenReview. See that the token in "
                f"{tenant}.{cluster} is valid and may create tokenreviews (ClusterRole system:auth-delegator).",
                passing=True,
            )
        try:
            status = json.loads(text)["status"]
        except (ValueError, KeyError, TypeError):
            status = None
        if not isinstance(status, dict):
            raise ReviewError(
                f"What answers for {cluster} is no API server. See `podlane clusters trust`.", passing=True
            )
        return status


def _object(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _texts(found: object) -> list[str]:
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
