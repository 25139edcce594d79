"""Somebody who creates Pods without a pause while a test changes what answers them."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self

from cluster import Cluster
from manifests import pod
from rest import Rest
from waiting import until

_PATIENCE: Final = 30.0


class PodCreator:
    """Creates Pods in a namespace, one after the other, as a dry run, until the block ends.

    A dry run passes all of admission; it saves the API server's storage, which is not what is tried here.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.outcomes: Counter[str] = Counter()
        """How many came out ``injected`` or ``bare``, or else the reason why they did not."""
        self.history: list[str] = []
        """The same one by one, in order."""
        self._path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
        self._rest = Rest(cluster)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def more(self, number: int = 20) -> None:
        """Wait until so many further Pods have been tried."""
        before = self.outcomes.total()
        until("more Pods", lambda: self.outcomes.total() >= before + number, patience=_PATIENCE)

    def _run(self) -> None:
        document = pod()
        document["metadata"]["generateName"] = "steady-"
        del document["metadata"]["name"]
        body = json.dumps(document)
        while not self._stop.is_set():
            outcome = _outcome(*self._rest.ask("POST", self._path, body))
            self.history.append(outcome)
            self.outcomes[outcome] += 1
        self._rest.close()


def _outcome(status: int, document: dict[str, Any]) -> str:
    if status != http.client.CREATED:
        return f"{status}: {document['message']}"
    return "injected" if "podlane.io/status" in document["metadata"]["annotations"] else "bare"
