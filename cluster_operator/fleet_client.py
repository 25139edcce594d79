"""Asks a control plane by REST, with a token of a file."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import trio

from cluster_operator.fleet_wish import FleetWish
from daemon.kubernetes.http_client import HttpClient, HttpError
from traffic_policy.errors import ConfigError, PodlaneError

_PATIENCE_S: Final = 20.0
_PAGE: Final = 100


class FleetAwayError(PodlaneError):
    """The control plane does not answer, or not now, or not to us. It may later."""


class NotTakenError(PodlaneError):
    """The control plane does not take this policy."""


class OutdatedError(PodlaneError):
    """Somebody else has changed the record meanwhile."""


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A policy as the control plane has it. ``content`` None: none is in force."""

    name: str
    version: int
    revision: int
    content: Mapping[str, Any] | None

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> FleetRecord:
        """Raises :class:`FleetAwayError` for what is none."""
        try:
            return cls(document["name"], document["version"], document["revision"], document["in_force"])
        except (KeyError, TypeError):
            raise FleetAwayError("What answers is no control plane. See --control-plane.") from None


class FleetPlane:
    """A control plane, and the tenant of the token. All methods raise :class:`FleetAwayError`."""

    def __init__(self, url: str, token: Path, authority: Path | None) -> None:
        """Raises :class:`ConfigError`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError(f"{url} is no URL of a control plane. Write it as https://podlane.example.com:15180")
        self.url = url.rstrip("/")
        self._token = token
        self._authority = authority
        tls = self._tls if parts.scheme == "https" else None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._client = HttpClient(parts.hostname, port, tls, parts.hostname)
        self._tenant = ""

    async def aclose(self) -> None:
        await self._client.aclose()

    async def records(self, prefix: str) -> dict[str, FleetRecord]:
        """Those whose names begin so, by name; also those of which nothing is in force any more."""
        found: dict[str, FleetRecord] = {}
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": str(_PAGE), "name": prefix, **({"cursor": cursor} if cursor else {})}
            page = await self._ask("GET", f"{await self._policies()}?{urlencode(query)}")
            found.update((each["name"], FleetRecord.read(each)) for each in page["items"])
            cursor = page["next"]
        return found

    async def publish(self, wish: FleetWish, before: FleetRecord | None) -> FleetRecord:
        """Make it the next revision. Raises :class:`NotTakenError`, :class:`OutdatedError`."""
        place = f"{await self._policies()}/{quote(wish.name, safe='')}"
        drafted = await self._ask("PUT", f"{place}/draft", wish, wish.content, before.version if before else 0)
        made = await self._ask("POST", f"{place}/publish", wish, {}, FleetRecord.read(drafted).version)
        return FleetRecord.read(made)

    async def remove(self, record: FleetRecord, reason: str) -> None:
        """Nothing of it is in force any more. Raises :class:`NotTakenError`, :class:`OutdatedError`."""
        place = f"{await self._policies()}/{quote(record.name, safe='')}"
        await self._ask("DELETE", place, reason, None, record.version)

    async def _policies(self) -> str:
        if not self._tenant:
            self._tenant = str((await self._ask("GET", "/v1/whoami")).get("tenant") or "")
            if not self._tenant:
                raise FleetAwayError(
                    f"The token for {self.url} is not of a tenant. Make one by `podlane tokens create`."
                )
        return f"/v1/tenants/{quote(self._tenant, safe='')}/policies"

    async def _ask(
        self, method: str, target: str, why: FleetWish | str = "", body: object = None, seen: int | None = None
    ) -> dict[str, Any]:
        reason = why if isinstance(why, str) else why.reason
        headers = {"accept": "application/json", "authorization": f"Bearer {self._secret()}"}
        if reason:
            headers["podlane-reason"] = reason.encode("ascii", "replace").decode()
        if seen is not None:
            headers |= {"if-match": f'"{seen}"'} if seen else {"if-none-match": "*"}
        content = b""
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            with trio.fail_after(_PATIENCE_S):
                answer = await self._client.request(method, target, headers, content)
            document = json.loads(answer.body)
        except (HttpError, OSError, ssl.SSLError, trio.TooSlowError) as error:
            raise FleetAwayError(f"{self.url} does not answer: {error or 'it takes too long'}.") from None
        except ValueError:
            raise FleetAwayError(f"{self.url} is no control plane: it answers no JSON.") from None
        if not isinstance(document, dict):
            raise FleetAwayError(f"{self.url} is no control plane: its answer is no object.")
        if answer.status < 400:
            return document
        said = f"{document.get('detail', '')} {document.get('remedy', '')}".strip() or f"It answers {answer.status}."
        problems = " ".join(f"{each.get('path')}: {each.get('message')}" for each in document.get("problems") or ())
        if answer.status == 412:
            raise OutdatedError(said)
        if answer.status in (400, 404, 409, 413, 422):
            raise NotTakenError(f"{said} {problems}".strip())
        raise FleetAwayError(f"{self.url} answers {answer.status}: {said}")

    def _secret(self) -> str:
        try:
            return self._token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FleetAwayError(f"The token cannot be read: {error}. See --token-file.") from None

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=None if self._authority is None else str(self._authority))
