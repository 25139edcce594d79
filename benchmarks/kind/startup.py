"""How long a Pod takes to start: from the moment its creation is asked for, by a watch that sees every change of it."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from benchmarks.admission.load import percentile
from benchmarks.errors import MeasurementError
from benchmarks.kind.cluster import PATIENCE, Api, ClusterError
from benchmarks.kind.manifests import Document

_WATCH_FOR: Final = 24 * 3600
"""Seconds until the server may end a watch by itself."""
_JOIN: Final = 5.0
"""Seconds; the thread is a daemon, and nothing depends on its end."""
_Seen = tuple[float, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the request for a Pod until it was ready, and whole ones by its own status.

    One change of its status tells that its containers run and that it is ready, where nothing probes them.
    """

    ready: float
    by_status: float


class Watcher:
    """Every change of the Pods of a namespace, with the time at which it was heard of (monotonic)."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._seen: queue.SimpleQueue[_Seen | ClusterError] = queue.SimpleQueue()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hear of what happens during the block. Raises :class:`ClusterError`."""
        version = self._api.get(self._pods)["metadata"]["resourceVersion"]
        path = f"{self._pods}?watch=true&resourceVersion={version}&timeoutSeconds={_WATCH_FOR}"
        connection = self._api.connect(patience=_WATCH_FOR)
        thread = threading.Thread(target=self._listen, args=(path, connection), daemon=True)
        thread.start()
        try:
            yield
        finally:
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, as closing would not
            thread.join(_JOIN)
            connection.close()

    def start(self, document: Document) -> Start:
        """Create a Pod, time its start, and delete it. Raises :class:`MeasurementError`, :class:`ClusterError`."""
        name = document["metadata"]["name"]
        began = time.monotonic()
        self._api.ask("POST", self._pods, document)
        for when, event in self._of(name):
            pod = event["object"]
            if (ready := _ready_at(pod["status"])) is not None:
                found = Start(when - began, _time(ready) - _time(pod["metadata"]["creationTimestamp"]))
                break
        self._api.ask("DELETE", f"{self._pods}/{name}")
        # Until it has gone, so that the next one has the node to itself.
        for _, event in self._of(name):
            if event["type"] == "DELETED":
                break
        return found

    def _of(self, name: str) -> Iterator[_Seen]:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                seen = self._seen.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                raise MeasurementError(f"the Pod {name} neither started nor ended within {PATIENCE:g} s") from None
            if isinstance(seen, ClusterError):
                raise seen
            if seen[1]["object"].get("metadata", {}).get("name") == name:
                yield seen

    def _listen(self, path: str, connection: http.client.HTTPConnection) -> None:
        try:
            for event in self._api.watch(path, connection):
                if event["type"] == "ERROR":
                    raise ClusterError(str(event["object"].get("message", event["object"])))
                self._seen.put((time.monotonic(), event))
            why: object = "the API server ended it"  # as this process does at the end, when nobody listens any more
        except (OSError, ValueError, http.client.HTTPException, ClusterError) as error:
            why = error
        self._seen.put(ClusterError(f"The watch of Pods ended: {why}"))


def _ready_at(status: dict[str, Any]) -> str | None:
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] == "True":
            return str(condition["lastTransitionTime"])
    return None


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def figures(starts: Sequence[Start]) -> dict[str, float]:
    """Percentiles (nearest rank) over Pods, in milliseconds, and in whole seconds by their status."""
    found: dict[str, float] = {}
    for share in (50, 99):
        found |= {
            f"ready_p{share}_ms": percentile([start.ready for start in starts], share / 100) * 1e3,
            f"status_p{share}_s": percentile([start.by_status for start in starts], share / 100),
        }
    return found
