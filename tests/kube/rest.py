"""The API server's own HTTP interface, for what kubectl is too slow or too clever for: many requests, exact histories."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from cluster import Cluster

_PATIENCE: Final = 30.0
WEBHOOKS: Final = "/apis/admissionregistration.k8s.io/v1"
MERGE: Final = "application/merge-patch+json"


class Rest:
    """One connection as the cluster's administrator; for one thread at a time."""

    def __init__(self, cluster: Cluster) -> None:
        place = urlsplit(cluster.url)
        client = cluster.pki.client("rest", "system:masters")
        tls = ssl.create_default_context(cafile=str(cluster.pki.bundle))
        tls.load_cert_chain(client.certificate, client.key)
        self._connection = http.client.HTTPSConnection(str(place.hostname), place.port, context=tls, timeout=_PATIENCE)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: str | None = None, kind: str = "application/json") -> tuple[int, Any]:
        """Status and JSON document of an answer."""
        self._connection.request(method, path, body, {"content-type": kind})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def get(self, path: str) -> dict[str, Any]:
        """An object or a list; fails unless it is there."""
        status, document = self.ask("GET", path)
        assert status == http.client.OK, document
        assert isinstance(document, dict)
        return document

    def patch(self, path: str, change: Mapping[str, Any]) -> None:
        """Merge a change into an object (RFC 7396)."""
        status, document = self.ask("PATCH", path, json.dumps(change), MERGE)
        assert status == http.client.OK, document

    def version(self, collection: str) -> str:
        """Where the history of a collection is now."""
        return str(self.get(f"{collection}?limit=1")["metadata"]["resourceVersion"])

    def history(self, collection: str, since: str, **query: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What has happened to the objects of a collection since then: (ADDED, MODIFIED or DELETED; the object).

        In order, and each with the resourceVersion of that moment, which is one count for the whole cluster. It goes on
        until ``timeoutSeconds`` of the query: take what is expected, then close it.
        """
        asked = "&".join(f"{key}={value}" for key, value in {"watch": "1", "resourceVersion": since, **query}.items())
        self._connection.request("GET", f"{collection}?{asked}")
        answer = self._connection.getresponse()
        assert answer.status == http.client.OK, answer.read()
        try:
            while line := answer.readline():
                event = json.loads(line)
                assert event["type"] != "ERROR", event
                yield event["type"], event["object"]
        finally:
            self._connection.close()
