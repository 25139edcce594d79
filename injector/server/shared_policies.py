"""Shared policies (ConfigMaps) with a short-lived cache, so that many Pods cause few requests.

A policy is cached for ``ttl`` seconds, its absence for less: a Pod is often created right after its ConfigMap. If the
API server cannot be reached, the cached policy is used for some minutes more, so that Pods do not fail. Concurrent
reviews with the same policy share one request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from daemon.kubernetes.api import ApiServer, config_map
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.log import Logger
from injector.errors import SharedPolicyError
from traffic_policy.pod.annotations import SHARED_POLICY_KEY

_ABSENT_SECONDS: Final = 1.0
_STALE_SECONDS: Final = 600.0
_MAX_ENTRIES: Final = 1000
_MAX_CHARACTERS: Final = 16 * 2**20

log = Logger()


@dataclass(frozen=True, slots=True)
class _Read:
    text: str | None
    at: float


@dataclass(slots=True)
class _Question:
    """A pending request; ``read`` or ``error`` is set once it is done, neither if its owner was cancelled."""

    done: trio.Event = field(default_factory=trio.Event)
    read: _Read | None = None
    error: SharedPolicyError | None = None


class SharedPolicies:
    """Reads the policy document of ConfigMaps; ``api`` is None without an API server."""

    def __init__(self, api: ApiServer | None, ttl: float, now: Callable[[], float] = trio.current_time) -> None:
        self._api = api
        self._ttl = ttl
        self._now = now
        self._cache: OrderedDict[tuple[str, str], _Read] = OrderedDict()
        self._characters = 0
        self._questions: dict[tuple[str, str], _Question] = {}

    async def read(self, namespace: str, name: str) -> str | None:
        """The text, None if the ConfigMap or its policy does not exist. Raises :class:`SharedPolicyError`."""
        key = namespace, name
        while True:
            held = self._cache.get(key)
            if held and self._now() < held.at + (self._ttl if held.text is not None else _ABSENT_SECONDS):
                self._cache.move_to_end(key)
                return held.text
            question = self._questions.get(key)
            if question is None:
                return await self._ask_for_all(key, held)
            await question.done.wait()
            if question.error:
                raise SharedPolicyError(str(question.error))
            if question.read:
                return question.read.text

    async def _ask_for_all(self, key: tuple[str, str], held: _Read | None) -> str | None:
        question = self._questions[key] = _Question()
        try:
            question.read = await self._ask(key, held)
        except SharedPolicyError as error:
            question.error = error
            raise
        finally:
            del self._questions[key]
            question.done.set()
        return question.read.text

    async def _ask(self, key: tuple[str, str], held: _Read | None) -> _Read:
        namespace, name = key
        if self._api is None:
            raise SharedPolicyError(
                f"ConfigMap {name} in namespace {namespace} cannot be read: the injector has no access to an API "
                "server. Start it in the cluster, or with --kubeconfig."
            )
        try:
            document = await self._api.get(config_map(namespace, name))
        except NotFoundError:
            text = None
        except ApiError as error:
            if held and held.text is not None and self._now() < held.at + self._ttl + _STALE_SECONDS:
                log.warning("a shared policy is used as it was read before", namespace=namespace, name=name,
                            error=str(error))  # fmt: skip
                return held
            raise SharedPolicyError(f"ConfigMap {name} in namespace {namespace} cannot be read now. {error}") from None
        else:
            data = document.get("data")
            value = data.get(SHARED_POLICY_KEY) if isinstance(data, dict) else None
            text = value if isinstance(value, str) else None
        read = _Read(text, self._now())
        self._keep(key, read)
        return read

    def _keep(self, key: tuple[str, str], read: _Read) -> None:
        old = self._cache.pop(key, None)
        self._characters += len(read.text or "") - len(old.text or "" if old else "")
        self._cache[key] = read
        while len(self._cache) > 1 and (len(self._cache) > _MAX_ENTRIES or self._characters > _MAX_CHARACTERS):
            _, dropped = self._cache.popitem(last=False)
            self._characters -= len(dropped.text or "")
