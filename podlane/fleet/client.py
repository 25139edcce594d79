"""Asks a control plane, and tells its problems with their remedies."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from podlane.fleet.contexts import FleetContext
from traffic_policy.errors import ConfigError, PodlaneError, PolicyError, Problem

_TIMEOUT: Final = 30.0
_IDLE: Final = 2.0
"""Seconds after which a connection is not used again: servers close them after 5."""
_PAGE: Final = 1000
_EARLY: Final = 20.0
"""Seconds before its end at which a token is renewed."""


class FleetError(PodlaneError):
    """The control plane does not answer, or refuses."""


class FleetClient:
    """One connection to a control plane. Blocks. Everything raises :class:`FleetError`, or :class:`PolicyError`."""

    def __init__(self, context: FleetContext, on_renewed: Callable[[FleetContext], None] | None = None) -> None:
        """``on_renewed`` is called with new tokens. Raises :class:`ConfigError` for what is no URL."""
        self.context = context
        self._on_renewed = on_renewed
        self._connection = _connection(context)
        self._asked = 0.0
        """When it answered last, by the monotonic clock."""

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str | int] | Sequence[tuple[str, str | int]] = (),
        *,
        reason: str = "",
        dry_run: bool = False,
        seen: int | None = None,
        source: str = "",
    ) -> Any:
        """The document that answers. ``path`` follows ``/v1/``. ``seen``: the version that is to be changed; 0: there
        must be none. ``source`` is where a policy comes from, for errors."""
        if self.context.refresh and time.time() > self.context.expires_at - _EARLY:
            self._renew()
        headers = {"Accept": "application/json"}
        if self.context.token:
            headers["Authorization"] = f"Bearer {self.context.token}"
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        if reason:
            headers["Podlane-Reason"] = reason.encode().decode("latin-1")
        if seen is not None:
            headers |= {"If-Match": f'"{seen}"'} if seen else {"If-None-Match": "*"}
        if dry_run:
            query = [*(query.items() if isinstance(query, Mapping) else query), ("dry-run", "true")]
        target = f"/v1/{path}{'?' + urlencode(query) if query else ''}"
        if time.monotonic() - self._asked > _IDLE:
            self._connection.close()  # the server may have: what is asked next connects again
        try:
            self._connection.request(method, target, content, headers)
            answer = self._connection.getresponse()
            text = answer.read()
            self._asked = time.monotonic()
        except ssl.SSLCertVerificationError as error:
            raise FleetError(
                f"The certificate of {self.context.url} is not trusted: {error.verify_message}. Name its CA by --ca."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise FleetError(f"{self.context.url} does not answer: {told}. See that the control plane runs.") from None
        try:
            document = json.loads(text)
        except ValueError:
            raise FleetError(
                f"{self.context.url} is no control plane: it answers {answer.status} and no JSON. Log in to another."
            ) from None
        if answer.status >= 400:
            raise _error(document, source)
        return document

    @property
    def host(self) -> str:
        """Of the control plane, as in a URL."""
        host = urlsplit(self.context.url).hostname or ""
        return f"[{host}]" if ":" in host else host

    def _renew(self) -> None:
        wish = {"refresh_token": self.context.refresh}
        # Of this request alone the old token is not to be renewed first.
        self.context = replace(self.context, token="", refresh="")
        self.context = renewed(self.context, self.ask("POST", "login/refresh", wish), wish["refresh_token"])
        if self._on_renewed is not None:
            self._on_renewed(self.context)

    def items(self, path: str, chosen: Mapping[str, str] | None = None) -> Iterator[Any]:
        """All of a list, page by page; ``chosen`` says which items, as the list's query has it."""
        cursor: str | None = ""
        while cursor is not None:
            query: dict[str, str | int] = {"limit": _PAGE, **(chosen or {})}
            page = self.ask("GET", path, query=query | ({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page["next"]

    def about(self, *parts: str) -> str:
        """A path below the context's tenant."""
        return "/".join(["tenants", *(quote(part, safe="") for part in (self.context.tenant, *parts))])


def renewed(context: FleetContext, tokens: Mapping[str, Any], refresh: str = "") -> FleetContext:
    """A context with the tokens of a login; ``refresh`` stays where there is no new one."""
    return replace(
        context,
        token=tokens["access_token"],
        refresh=tokens["refresh_token"] or refresh,
        expires_at=time.time() + tokens["expires_in"],
    )


def _connection(context: FleetContext) -> http.client.HTTPConnection:
    try:
        url = urlsplit(context.url)
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or url.scheme not in ("http", "https") or url.path not in ("", "/"):
        raise ConfigError(f"{context.url} is no URL of a control plane. Write it as https://podlane.example.com:15180")
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    try:
        trust = ssl.create_default_context(cafile=context.ca or None)
    except OSError as error:
        raise ConfigError(f"{context.ca} cannot be used: {error.strerror}. Name a CA's certificate by --ca.") from None
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=trust)


def _error(problem: Mapping[str, Any], source: str) -> PodlaneError:
    wrong = [Problem(each["path"], each["message"], each["remedy"]) for each in problem.get("problems", ())]
    if wrong and problem.get("type") == "urn:podlane:problem:invalid-policy":
        return PolicyError(wrong, source)
    lines = [f"{problem.get('detail', '')} {problem.get('remedy', '')}".strip(), *map(str, wrong)]
    return FleetError("\n  ".join(lines))
