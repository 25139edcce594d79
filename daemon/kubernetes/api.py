"""Requests to the API server, as typed calls whose errors name the remedy.

https://kubernetes.io/docs/reference/using-api/api-concepts/ defines paths, resourceVersion and patch types.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import trio

from daemon.kubernetes.access import ApiAccess
from daemon.kubernetes.errors import ApiAccessError, ApiError, ConflictError, GoneError, NotFoundError
from daemon.kubernetes.http_client import HttpAnswer, HttpClient, HttpError, HttpLines
from traffic_policy.cluster.kinds import API_VERSION, TRAFFIC_REPORT, plural

_PATIENCE: Final = 5.0
"""Seconds for a request and its answer; an admission that waits for it has 10 by default."""
_OBJECTS_PAGE: Final = 100
"""Objects in one answer of a list; the largest Pods have some 100 KiB."""
_GONE: Final = 410
_VERBS: Final = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
"""HTTP method -> RBAC verb (https://kubernetes.io/docs/reference/access-authn-authz/authorization/)."""
STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
_METADATA: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_ISTIO: Final = "/apis/networking.istio.io/v1alpha3"
_PAGE: Final = 500
"""Rows of one answer, as kubectl asks for them."""

Kept = TypeVar("Kept")
Observer = Callable[[str, str, int], None]
"""Called for each failure: verb, kind of object, status code (0: no answer)."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The location of one object, or of all without a ``name``: ``group`` is the path prefix, ``plural`` the resource
    name, as in RBAC; ``part`` is a subresource, as status."""

    group: str
    plural: str
    name: str = ""
    namespace: str | None = None
    part: str = ""

    @property
    def path(self) -> str:
        inside = f"/namespaces/{self.namespace}" if self.namespace else ""
        return (
            f"{self.group}{inside}/{self.plural}"
            + (f"/{self.name}" if self.name else "")
            + (f"/{self.part}" if self.part else "")
        )

    def __str__(self) -> str:
        what = f"{self.plural} {self.name}" if self.name else self.plural
        return what + (f" in namespace {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True)
class ObjectCollection:
    """All objects of a kind that a field selector and a label selector leave, in all namespaces."""

    group: str
    plural: str
    field_selector: str = ""
    label_selector: str = ""

    def target(self, **query: str) -> str:
        """The path and query of a request."""
        selected = {"fieldSelector": self.field_selector, "labelSelector": self.label_selector}
        chosen = {key: text for key, text in selected.items() if text}
        return f"{self.group}/{self.plural}?{urlencode({**chosen, **query})}"

    def __str__(self) -> str:
        return self.plural


def pods_of_node(name: str) -> ObjectCollection:
    return ObjectCollection("/api/v1", "pods", f"spec.nodeName={name}")


def node_of_name(name: str) -> ObjectCollection:
    return ObjectCollection("/api/v1", "nodes", f"metadata.name={name}")


def pod(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "pods", name, namespace)


def all_pods() -> ObjectCollection:
    return ObjectCollection("/api/v1", "pods")


def all_namespaces() -> ObjectCollection:
    return ObjectCollection("/api/v1", "namespaces")


def traffic_reports() -> ObjectCollection:
    """What the agents of all nodes report."""
    return ObjectCollection(f"/apis/{API_VERSION}", plural(TRAFFIC_REPORT))


def traffic_report(node: str) -> Resource:
    return Resource(f"/apis/{API_VERSION}", plural(TRAFFIC_REPORT), node)


def policy_status(kind: str, namespace: str, name: str) -> Resource:
    """The status of a TrafficPolicy or ClusterTrafficPolicy; ``namespace`` is empty for the latter."""
    return Resource(f"/apis/{API_VERSION}", plural(kind), name, namespace or None, "status")


def lease(namespace: str, name: str) -> Resource:
    return Resource("/apis/coordination.k8s.io/v1", "leases", name, namespace)


def policies_of_cluster(kind: str) -> ObjectCollection:
    """``kind`` is TrafficPolicy or ClusterTrafficPolicy; those of all namespaces."""
    return ObjectCollection(f"/apis/{API_VERSION}", plural(kind))


def envoy_filters(labels: str) -> ObjectCollection:
    """Those of Istio that a label selector takes."""
    return ObjectCollection(_ISTIO, "envoyfilters", label_selector=labels)


def envoy_filter(namespace: str, name: str) -> Resource:
    return Resource(_ISTIO, "envoyfilters", name, namespace)


class WatchChanges:
    """The changes of a collection, as they come."""

    def __init__(self, lines: HttpLines, place: str) -> None:
        """``lines`` is the answer to a watch of the API server at ``place``."""
        self._lines, self._place = lines, place

    async def next(self) -> tuple[str, dict[str, Any]] | None:
        """ADDED, MODIFIED, DELETED or BOOKMARK, and the object; None when the API server ends the watch, as it does
        after a while.

        Raises :class:`GoneError` if changes were missed, and :class:`ApiError`.
        """
        try:
            line = await self._lines.line()
        except HttpError as error:
            raise ApiError(f"The watch of the API server at {self._place} ended: {error}.") from None
        if line is None:
            return None
        change = _document(HttpAnswer(0, line), self._place)
        kind, found = change.get("type"), change.get("object")
        if not isinstance(kind, str) or not isinstance(found, dict):
            raise ApiError(f"What answers at {self._place} is no API server: a line of a watch has no object.")
        if kind == "ERROR":
            said, code = str(found.get("message", "without a reason")), found.get("code")
            if code == _GONE:
                raise GoneError(f"The API server at {self._place} has forgotten what changed ({said}).", _GONE)
            raise ApiError(
                f"The API server at {self._place} ended the watch: {said}", code if isinstance(code, int) else 0
            )
        return kind, found


def secret(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "secrets", name, namespace)


def pods(namespace: str | None) -> Resource:
    """All Pods of a namespace; None: of all."""
    return Resource("/api/v1", "pods", namespace=namespace)


def namespaces() -> Resource:
    return Resource("/api/v1", "namespaces")


def policies(kind: str, namespace: str | None) -> Resource:
    """All TrafficPolicies of a namespace, or of all (None), or all ClusterTrafficPolicies."""
    return Resource(f"/apis/{API_VERSION}", plural(kind), namespace=namespace)


def config_map(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "configmaps", name, namespace)


def namespace(name: str) -> Resource:
    return Resource("/api/v1", "namespaces", name)


def nodes() -> Resource:
    return Resource("/api/v1", "nodes")


def node(name: str) -> Resource:
    return Resource("/api/v1", "nodes", name)


def event(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "events", name, namespace)


def replica_set(namespace: str, name: str) -> Resource:
    return Resource("/apis/apps/v1", "replicasets", name, namespace)


def daemon_set(namespace: str, name: str) -> Resource:
    return Resource("/apis/apps/v1", "daemonsets", name, namespace)


def webhook_configuration(kind: str, name: str) -> Resource:
    """``kind`` is mutating or validating."""
    return Resource("/apis/admissionregistration.k8s.io/v1", f"{kind}webhookconfigurations", name)


class ApiServer:
    """A client of one API server. All methods raise :class:`ApiError` or a subclass.

    ``program`` is the user agent, and the field manager of our changes.
    """

    def __init__(
        self,
        access: ApiAccess,
        observe: Observer = lambda _verb, _kind, _status: None,
        *,
        program: str = "podlane",
    ) -> None:
        self.access = access
        self._program = program
        self._observe = observe
        self._client = HttpClient(access.host, access.port, access.tls, access.server_name)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def version(self) -> tuple[int, int]:
        """The API server's major and minor version. ``/version`` needs no permission."""
        document = await self._ask("GET", "/version", None)
        try:
            # Some distributions report "29+".
            return int(document["major"]), int(str(document["minor"]).rstrip("+"))
        except (KeyError, ValueError):
            raise ApiError(
                f"The API server at {self._place} says no version that is understood ({document.get('gitVersion')!r}). "
                "Podlane needs Kubernetes 1.29 or later."
            ) from None

    async def get(self, resource: Resource) -> dict[str, Any]:
        return await self._ask("GET", resource.path, resource)

    async def table(self, resource: Resource, labels: str, *columns: str) -> AsyncIterator[tuple[str, ...]]:
        """Some columns of what ``kubectl get`` prints of the objects that a label selector takes.

        A row has some hundred bytes, where a Node has ten thousand
        (https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables).
        """
        places: list[int] = []
        token = ""
        while True:
            query = {"labelSelector": labels, "limit": str(_PAGE), "includeObject": "None", "continue": token}
            path = f"{resource.path}?{urlencode(query)}"
            document = await self._ask("GET", path, resource, verb="list", accept=_TABLE)
            try:
                if not places:  # only the first page has them
                    names = [each["name"] for each in document["columnDefinitions"]]
                    places = [names.index(column) for column in columns]
                rows = [tuple(str(row["cells"][i]) for i in places) for row in document["rows"] or ()]
                token = document["metadata"].get("continue", "")
            except (KeyError, ValueError, TypeError, IndexError, AttributeError):
                raise ApiError(f"The API server's table of {resource} is not as expected.") from None
            for row in rows:
                yield row
            if not token:
                return

    async def pages(self, collection: ObjectCollection) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """All objects, some at a time, and each time the resourceVersion at which all of them were so. Raises
        :class:`GoneError` where that took too long: ask again."""
        query = {"limit": str(_OBJECTS_PAGE)}
        while True:
            document = await self._ask("GET", collection.target(**query), collection, verb="list")
            found, about = document.get("items"), document.get("metadata")
            if not isinstance(found, list | None) or not isinstance(about, dict):
                raise ApiError(f"What answers at {self._place} is no API server: it sends a list without items.")
            yield [each for each in found or () if isinstance(each, dict)], str(about.get("resourceVersion", ""))
            if not about.get("continue"):
                return
            query["continue"] = str(about["continue"])

    async def some(
        self,
        resource: Resource,
        most: int,
        needed: Callable[[Mapping[str, Any]], Kept],
        *,
        labels: str = "",
        fields: str = "",
        metadata: bool = False,
    ) -> tuple[Sequence[Kept], bool]:
        """Objects that both selectors take, ``most`` at most, and whether these are all. Of each is kept what
        ``needed`` leaves; ``metadata``: they have nothing else
        (https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches)."""
        found: list[Kept] = []
        token = ""
        while True:
            limit = min(_OBJECTS_PAGE, most - len(found))
            query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit), "continue": token}
            path = f"{resource.path}?{urlencode({key: text for key, text in query.items() if text})}"
            accept = _METADATA if metadata else "application/json"
            document = await self._ask("GET", path, resource, verb="list", accept=accept)
            items, about = document.get("items"), document.get("metadata")
            if not isinstance(items, list | None) or not isinstance(about, dict):
                raise ApiError(f"What answers at {self._place} is no API server: it sends a list without items.")
            found += (needed(each) for each in items or () if isinstance(each, dict))
            token = str(about.get("continue") or "")
            if not token or len(found) >= most:
                return found[:most], not token

    @asynccontextmanager
    async def watch(self, collection: ObjectCollection, version: str, seconds: int) -> AsyncIterator[WatchChanges]:
        """What changes after ``version``, for so many seconds. Raises :class:`GoneError` if that is too long ago."""
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        target = self.access.base_path + collection.target(**query, timeoutSeconds=str(seconds))
        try:
            headers = self._headers()
            with trio.CancelScope() as patience:
                patience.deadline = trio.current_time() + _PATIENCE
                async with self._client.lines(target, headers) as (status, lines):
                    if status != 200:
                        answer = HttpAnswer(status, await lines.rest())
                        self._observe("watch", collection.plural, status)
                        raise self._failure(answer, "watch", collection)
                    patience.deadline = math.inf
                    yield WatchChanges(lines, self._place)
            if patience.cancelled_caught:
                raise HttpError(f"no answer within {_PATIENCE:g} s")
        except ApiAccessError as error:
            self._observe("watch", collection.plural, 0)
            raise ApiError(str(error)) from None
        except HttpError as error:
            self._observe("watch", collection.plural, 0)
            raise ApiError(f"The API server at {self._place} cannot be asked: {error}.") from None

    async def apply(self, resource: Resource, document: Mapping[str, Any], *, force: bool = False) -> dict[str, Any]:
        """Create or change an object to ``document``, by server-side apply; ``force``: also what others have changed.

        Unlike a POST, the request has the name in its path, so the permission to create can be limited to it
        (k8s.io/apiserver, endpoints/handlers/patch.go, createAuthorizerAttributes).
        """
        path = f"{resource.path}?fieldManager={self._program}" + ("&force=true" if force else "")
        return await self._ask("PATCH", path, resource, document, APPLY)

    async def update(self, resource: Resource, document: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; ``document`` has the resourceVersion that was read. Raises :class:`ConflictError` if it is
        outdated. A Lease is created where there is none; no other kind is."""
        return await self._ask("PUT", resource.path, resource, document)

    async def delete(self, resource: Resource, uid: str) -> None:
        """Remove the object with this UID; another of its name stays, and raises :class:`ConflictError`."""
        await self._ask("DELETE", resource.path, resource, {"preconditions": {"uid": uid}})

    async def patch(self, resource: Resource, change: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a strategic merge patch; with an outdated resourceVersion it raises :class:`ConflictError` as
        :meth:`update` does."""
        return await self._ask("PATCH", resource.path, resource, change, STRATEGIC_MERGE)

    @property
    def _place(self) -> str:
        return f"{self.access.host}:{self.access.port}"

    async def _ask(
        self,
        method: str,
        path: str,
        resource: Resource | ObjectCollection | None,
        document: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        verb: str = "",
        accept: str = "application/json",
    ) -> dict[str, Any]:
        kind = resource.plural if resource else "version"
        verb = verb or ("apply" if content_type == APPLY else _VERBS[method])
        body = b""
        if document is not None:
            # Server-side apply reads YAML, in which the two escapes of an emoji are no character.
            body = json.dumps(document, ensure_ascii=False).encode()
        try:
            headers = {**self._headers(), "accept": accept}
            if document is not None:
                headers["content-type"] = content_type
            with trio.fail_after(_PATIENCE):
                answer = await self._client.request(method, self.access.base_path + path, headers, body)
        except ApiAccessError as error:
            self._observe(verb, kind, 0)
            raise ApiError(str(error)) from None
        except (HttpError, trio.TooSlowError) as error:
            self._observe(verb, kind, 0)
            reason = str(error) if isinstance(error, HttpError) else f"no answer within {_PATIENCE:g} s"
            raise ApiError(f"The API server at {self._place} cannot be asked: {reason}.") from None
        if answer.status >= 300 or answer.status < 200:
            self._observe(verb, kind, answer.status)
            raise self._failure(answer, verb, resource)
        return _document(answer, self._place)

    def _headers(self) -> dict[str, str]:
        """Raises :class:`ApiAccessError`."""
        headers = {"user-agent": self._program}
        if self.access.token:
            headers["authorization"] = f"Bearer {self.access.token()}"
        return headers

    def _failure(self, answer: HttpAnswer, verb: str, resource: Resource | ObjectCollection | None) -> ApiError:
        said = _said(answer)
        what = str(resource) if resource else "/version"
        if answer.status == 401:
            return ApiError(
                f"The API server at {self._place} does not know who we are ({said}). "
                f"Check the token or client certificate of {self.access.source}.", 401
            )  # fmt: skip
        if answer.status == 403 and _terminating(answer):
            return NotFoundError(f"There are no {what}: the namespace is being deleted.", 404)
        if answer.status == 403:
            needed = "verbs 'patch' and 'create'" if verb == "apply" else f"verb {verb!r}"
            return ApiError(
                f"{self._program} may not {verb} {what} ({said}). "
                f"Give its service account the {needed} on {resource.plural if resource else 'it'}.", 403
            )  # fmt: skip
        if answer.status == 404:
            return NotFoundError(f"There are no {what}.", 404)
        if answer.status == 409:
            return ConflictError(f"{what} changed meanwhile ({said}).", 409)
        if answer.status == _GONE:
            return GoneError(f"The API server at {self._place} has forgotten what changed ({said}).", _GONE)
        return ApiError(f"The API server answered {answer.status} to {verb} {what}: {said}", answer.status)


def _document(answer: HttpAnswer, place: str) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ApiError(f"What answers at {place} is no API server: its answer is not a JSON object.", answer.status)
    return document


def _said(answer: HttpAnswer) -> str:
    """The message of a Status object, else the beginning of the body."""
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.body[:200].decode(errors="replace").strip() or "without a reason"


def _terminating(answer: HttpAnswer) -> bool:
    """Whether nothing can be made in a namespace since it is being deleted (k8s.io/apiserver, admission plugin
    NamespaceLifecycle)."""
    try:
        causes = json.loads(answer.body)["details"]["causes"]
        return any(each["reason"] == "NamespaceTerminating" for each in causes)
    except (ValueError, KeyError, TypeError):
        return False
