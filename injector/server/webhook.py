"""The webhooks: each review, received by POST, is answered within its timeout, or with an HTTP error.

Mutation and validation are synchronous and pure (:mod:`injector.pod.admission`, :mod:`injector.pod.templates`). They
usually take a millisecond, but a policy of many thousand lines takes a second, in which other reviews must be answered,
and the timeout reported: potentially long work is done by another process (:mod:`injector.server.budget`). After an
HTTP error the ``failurePolicy`` of the webhook configuration decides about the object.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qs

import trio

from daemon.http import JSON, HttpRequest, HttpResponse, RequestError
from daemon.kubernetes.event_series import Happening
from daemon.log import Logger
from injector.errors import NamespaceError, SharedPolicyError
from injector.pod.defaults import InjectionDefaults
from injector.server.budget import SHORT_BODY, DecodingBudget
from injector.server.clients import Clients
from injector.server.http import failure
from injector.server.metrics import InjectorMetrics
from injector.server.namespaces import Namespaces
from injector.server.nodes import Nodes
from injector.server.review import (
    Facts,
    Judge,
    Outline,
    ReadNamespace,
    ReadPolicy,
    ReviewAnswer,
    Reviewer,
    ReviewOutcome,
    Telling,
    nothing,
    outline,
    outlined,
    parse_review,
)
from injector.server.shared_policies import SharedPolicies
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules

Record = Callable[[Happening | None], None]
"""Takes note of what became of a Pod, without waiting for anything."""

Further = Callable[[bytes, ReviewAnswer], Awaitable[ReviewAnswer]]
"""Of a review's body and its answer: the answer with further warnings. Raises nothing."""

MAX_BODY: Final = 3 * 2**20
"""Bytes of a review: the API server's own limit for a request (``MaxRequestBodyBytes`` in its options)."""
_MARGIN: Final = 0.1
_LEAST_MARGIN: Final = 0.2
"""The fraction of the API server's timeout, and the minimum in seconds, by which ours is shorter: the answer with the
reason takes time to arrive, and the timeout is rounded up to seconds (k8s.io/apiserver,
webhook/mutating/dispatcher.go)."""
_LEAST_TIMEOUT: Final = 0.01
"""Seconds; API servers send whole ones, 1 to 30 (``timeoutSeconds``)."""
_SHORT_TEXT: Final = 4 * 1024
"""Characters of a Pod's annotations and its shared policy up to which a decision about a short review takes some
milliseconds at most."""
_GO_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h)")
_GO_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_RESULTS: Final = {403: "forbidden", 503: "busy"}
"""Results for the metrics by status code; others are bad requests."""

log = Logger()
log_some = Logger(spacing=1.0)
"""For what clients cause."""


class Webhook:
    """One webhook; ``reviewer`` is :func:`injector.pod.admission.mutate` or ``validate``, or
    :func:`injector.pod.templates.validate_template`. ``clients``: who may ask; None: everybody. ``enforced``: it is
    asked about namespaces in which no Pod may be without limits. ``record`` gets what ``telling`` makes of each answer;
    the reviewer and ``telling`` are functions of modules, for another process to call. ``further`` adds warnings."""

    def __init__(
        self,
        name: str,
        reviewer: Reviewer,
        defaults: InjectionDefaults,
        shared: SharedPolicies,
        metrics: InjectorMetrics,
        longest: float,
        decoding: DecodingBudget,
        namespaces: Namespaces,
        nodes: Nodes,
        *,
        clients: Clients | None = None,
        enforced: bool = False,
        telling: Telling = nothing,
        record: Record = lambda _happening: None,
        further: Further | None = None,
    ) -> None:
        self._name = name
        self._judge = Judge(reviewer, defaults, telling)
        self._shared = shared
        self._metrics = metrics
        self._longest = longest
        self._decoding = decoding
        self._namespaces = namespaces
        self._nodes = nodes
        self._clients = clients
        self._enforced = enforced
        self._record = record
        self._further = further

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """ReviewAnswer a review. Raises :class:`RequestError` for an invalid one."""
        began = trio.current_time()
        outcome = ReviewOutcome("error")
        try:
            if self._clients is not None:
                self._clients.refuse_others(request.client)
            seconds = time_limit(request.query, self._longest)
            with trio.move_on_after(seconds):
                answer, outcome = await self._answer(request, began)
                return answer
            outcome = ReviewOutcome("timeout")
            log_some.error("a review took too long", webhook=self._name, seconds=round(seconds, 3))
            return failure(504, f"The injector could not answer within {seconds:.1f} s.")
        except RequestError as refusal:
            outcome = ReviewOutcome(_RESULTS.get(refusal.status, "bad_request"))
            log_some.warning("what came is no review", webhook=self._name, code=refusal.status, reason=str(refusal))
            raise
        except trio.Cancelled:
            outcome = ReviewOutcome("abandoned")
            raise
        finally:
            self._metrics.reviewed(self._name, outcome.result, trio.current_time() - began, outcome.patch_bytes)

    async def _answer(self, request: HttpRequest, began: float) -> tuple[HttpResponse, ReviewOutcome]:
        _check_head(request)
        body = await request.body(MAX_BODY)
        decide = self._short if len(body) <= SHORT_BODY else self._long
        answer, seen = await decide(body, request.sharer)
        if self._further is not None:
            answer = await self._further(body, answer)
        self._record(answer.happening)
        outcome = answer.outcome
        write = log.debug if outcome.result == "allowed" else log.info
        write(
            outcome.result,
            webhook=self._name,
            **seen.told,
            patch_bytes=outcome.patch_bytes,
            milliseconds=round((trio.current_time() - began) * 1000, 2),
        )
        return HttpResponse(200, JSON, answer.body), outcome

    async def _short(self, body: bytes, sharer: str) -> tuple[ReviewAnswer, Outline]:
        async with self._decoding.decoding(len(body)):
            review = parse_review(body)
            seen = outline(review)
            facts = await self._read(seen)
            size = seen.texts + facts.size
            if size <= _SHORT_TEXT:
                return self._judge.decide(review, facts), seen
            del review  # others need the room while this waits
        return await self._decoding.run(partial(self._judge.decide_body, body, facts), size, sharer), seen

    async def _long(self, body: bytes, sharer: str) -> tuple[ReviewAnswer, Outline]:
        """The same without parsing it here: that alone keeps others waiting."""
        run = self._decoding.run
        seen = await run(partial(outlined, body), len(body), sharer)
        facts = await self._read(seen)
        return await run(partial(self._judge.decide_body, body, facts), len(body) + facts.size, sharer), seen

    async def _read(self, seen: Outline) -> Facts:
        """What the Pod's namespace says and the one ConfigMap that it names, itself or by its namespace."""
        namespace = await self._read_namespace(seen.namespace, seen.labels)
        policy = await self._read_policy(seen.shared_policy(namespace.rules.defaults))
        return Facts(policy, namespace, self._nodes.warnings)

    async def _read_namespace(self, name: str | None, labels: Mapping[str, str]) -> ReadNamespace:
        if name is None:
            return ReadNamespace(NamespaceRules(enforced=self._enforced))
        try:
            return ReadNamespace(await self._namespaces.rules(name, labels, enforced=self._enforced))
        except AnnotationsError as failure:
            return ReadNamespace(NO_RULES, failure)
        except NamespaceError as failure:
            raise RequestError(503, str(failure)) from None  # so that failurePolicy decides

    async def _read_policy(self, wanted: tuple[str, str] | None) -> ReadPolicy:
        if wanted is None:
            return ReadPolicy(None)
        try:
            return ReadPolicy(wanted, await self._shared.read(*wanted))
        except SharedPolicyError as failure:
            return ReadPolicy(wanted, error=failure)


def time_limit(query: str, longest: float) -> float:
    """Seconds to answer in, from the ``timeout`` that the API server sends, as in ``10s``; else ``longest``.

    Raises :class:`RequestError` for one that cannot be met.
    """
    given = parse_qs(query).get("timeout", [""])[0]
    units = _GO_DURATION.findall(given)
    if not units or "".join(units) != given:
        return longest
    seconds = 0.0
    for unit in units:
        suffix = unit.lstrip("0123456789.")
        seconds += float(unit.removesuffix(suffix)) * _GO_SECONDS[suffix]
    if not seconds:
        return longest  # no limit, as for Go's clients
    if seconds < _LEAST_TIMEOUT:
        raise RequestError(
            400, f"timeout={given[:40]} is too short for any answer. Ask with {_LEAST_TIMEOUT:g}s or more."
        )
    return min(longest, max(seconds - max(seconds * _MARGIN, _LEAST_MARGIN), seconds / 2))


def _check_head(request: HttpRequest) -> None:
    if request.method != "POST":
        raise RequestError(405, "Reviews come by POST.", ("allow", "POST"))
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise RequestError(415, f"Reviews are {JSON}, not {content_type[:100] or 'something without a content type'}.")
