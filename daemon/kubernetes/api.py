"""Requests to the API server, as typed calls whose errors name the remedy.

https://kubernetes.io/docs/reference/using-api/api-concepts/ defines paths, resourceVersion and patch types.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import trio

from daemon.kubernetes.access import ApiAccess
from daemon.kubernetes.errors import ApiAccessError, ApiError, ConflictError, NotFoundError
from daemon.kubernetes.http_client import HttpAnswer, HttpClient, HttpError

_PATIENCE: Final = 5.0
"""Seconds for a request and its answer; an admission that waits for it has 10 by default."""
_VERBS: Final = {"GET": "get", "PUT": "update", "PATCH": "patch"}
"""HTTP method -> RBAC verb (https://kubernetes.io/docs/reference/access-authn-authz/authorization/)."""
STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
_PAGE: Final = 500
"""Rows of one answer, as kubectl asks for them."""

Observer = Callable[[str, str, int], None]
"""Called for each failure: verb, kind of object, status code (0: no answer)."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The location of one object, or of all without a ``name``: ``group`` is the path prefix, ``plural`` the resource
    name, as in RBAC."""

    group: str
    plural: str
    name: str = ""
    namespace: str | None = None

    @property
    def path(self) -> str:
        inside = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{self.group}{inside}/{self.plural}" + (f"/{self.name}" if self.name else "")

    def __str__(self) -> str:
        what = f"{self.plural} {self.name}" if self.name else self.plural
        return what + (f" in namespace {self.namespace}" if self.namespace else "")


def secret(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "secrets", name, namespace)


def config_map(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "configmaps", name, namespace)


def namespace(name: str) -> Resource:
    return Resource("/api/v1", "namespaces", name)


def nodes() -> Resource:
    return Resource("/api/v1", "nodes")


def event(namespace: str, name: str) -> Resource:
    return Resource("/api/v1", "events", name, namespace)


def replica_set(namespace: str, name: str) -> Resource:
    return Resource("/apis/apps/v1", "replicasets", name, namespace)


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

    async def apply(self, resource: Resource, document: Mapping[str, Any]) -> dict[str, Any]:
        """Create or change an object to ``document``, by server-side apply.

        Unlike a POST, the request has the name in its path, so the permission to create can be limited to it
        (k8s.io/apiserver, endpoints/handlers/patch.go, createAuthorizerAttributes).
        """
        path = f"{resource.path}?fieldManager={self._program}"
        return await self._ask("PATCH", path, resource, document, APPLY)

    async def update(self, resource: Resource, document: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; ``document`` has the resourceVersion that was read. Raises :class:`ConflictError` if it is
        outdated."""
        return await self._ask("PUT", resource.path, resource, document)

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
        resource: Resource | None,
        document: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        verb: str = "",
        accept: str = "application/json",
    ) -> dict[str, Any]:
        kind = resource.plural if resource else "version"
        verb = verb or ("apply" if content_type == APPLY else _VERBS[method])
        headers = {"user-agent": self._program, "accept": accept}
        body = b""
        if document is not None:
            headers["content-type"] = content_type
            # Server-side apply reads YAML, in which the two escapes of an emoji are no character.
            body = json.dumps(document, ensure_ascii=False).encode()
        try:
            if self.access.token:
                headers["authorization"] = f"Bearer {self.access.token()}"
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

    def _failure(self, answer: HttpAnswer, verb: str, resource: Resource | None) -> ApiError:
        said = _said(answer)
        what = str(resource) if resource else "/version"
        if answer.status == 401:
            return ApiError(
                f"The API server at {self._place} does not know who we are ({said}). "
                f"Check the token or client certificate of {self.access.source}.", 401
            )  # fmt: skip
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
