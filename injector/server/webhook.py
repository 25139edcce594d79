"""The webhooks: each review, received by POST, is answered within its timeout, or with an HTTP error.

Mutation and validation are synchronous and pure (:mod:`injector.pod.admission`, :mod:`injector.pod.templates`). They
usually take a millisecond, but a policy of many thousand lines takes a second, in which other reviews must be answered,
and the timeout reported: potentially long work runs in a thread (:mod:`injector.server.budget`). After an HTTP error
the ``failurePolicy`` of the webhook configuration decides about the object.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn
from urllib.parse import parse_qs

import trio

from daemon.http import JSON, HttpRequest, HttpResponse, RequestError
from daemon.log import Logger
from injector.errors import NamespaceError, SharedPolicyError
from injector.pod.defaults import InjectionDefaults
from injector.pod.pods import annotations_of
from injector.pod.reviews import Rules, warned, workload_in
from injector.pod.reviews import SharedPolicies as Lookup
from injector.pod.workloads import Workload
from injector.server.budget import SHORT_BODY, DecodingBudget
from injector.server.clients import Clients
from injector.server.http import compact, failure
from injector.server.metrics import InjectorMetrics
from injector.server.namespaces import Namespaces
from injector.server.nodes import Nodes
from injector.server.shared_policies import SharedPolicies
from traffic_policy.pod.effective import AnnotationsError, shared_policy_name
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules

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
milliseconds at most, usually so little that a thread would double it."""
_LONGEST_NAME: Final = 253
"""Characters of an object's name (a DNS subdomain, RFC 1123)."""
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): it becomes part of a path."""

_GO_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h)")
_GO_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_RESULTS: Final = {403: "forbidden", 503: "busy"}
"""Results for the metrics by status code; others are bad requests."""

Reviewer = Callable[[Mapping[str, Any], InjectionDefaults, Lookup, Rules], dict[str, Any]]
Record = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
"""Takes note of a review and its answer, without waiting for anything."""

log = Logger()
log_some = Logger(spacing=1.0)
"""For what clients cause."""


@dataclass(frozen=True, slots=True)
class ReviewOutcome:
    """The content of a response: the result for the metrics, and the size of the patch in bytes."""

    result: str
    patch_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _ReadPolicy:
    """The shared policy that a Pod names (``wanted``), as it was read."""

    wanted: tuple[str, str] | None
    text: str | None = None
    error: SharedPolicyError | None = None

    def get(self, namespace: str, name: str) -> str | None:
        """See :data:`injector.pod.reviews.SharedPolicies`."""
        if (namespace, name) != self.wanted:
            raise SharedPolicyError(f"ConfigMap {name} in namespace {namespace} was not read.")
        if self.error is not None:
            raise self.error
        return self.text


@dataclass(frozen=True, slots=True)
class _ReadNamespace:
    """What the Pod's namespace says, or why that is not known."""

    rules: NamespaceRules
    error: AnnotationsError | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.rules.defaults.values()))

    def get(self) -> NamespaceRules:
        """See :data:`injector.pod.reviews.Rules`."""
        if self.error is not None:
            raise self.error
        return self.rules


class Webhook:
    """One webhook; ``reviewer`` is :func:`injector.pod.admission.mutate` or ``validate``, or
    :func:`injector.pod.templates.validate_template`. ``clients``: who may ask; None: everybody. ``enforced``: it is
    asked about namespaces in which no Pod may be without limits. ``record`` hears of each answer."""

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
        record: Record = lambda _review, _reply: None,
    ) -> None:
        self._name = name
        self._reviewer = reviewer
        self._defaults = defaults
        self._shared = shared
        self._metrics = metrics
        self._longest = longest
        self._decoding = decoding
        self._namespaces = namespaces
        self._nodes = nodes
        self._clients = clients
        self._enforced = enforced
        self._record = record

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer a review. Raises :class:`RequestError` for an invalid one."""
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
        async with self._decoding.decoding(len(body)) as room:
            review = parse_review(body)  # in C, holding the GIL: a thread would block the others just the same
            found = workload_in(review)
            namespace = await self._read_namespace(review)
            policy = await self._read_policy(review, found, namespace)
            work = partial(self._reviewed, review, policy.get, namespace.get)
            size = _texts_of(found) + namespace.size + len(policy.text or "")
            if len(body) <= SHORT_BODY and size <= _SHORT_TEXT:
                reply, answer = work()
            else:
                reply, answer = await self._decoding.run(work, max(size, len(body)), room)
        outcome = outcome_of(reply)
        self._record(review, reply)
        self._log(review, found, outcome, trio.current_time() - began)
        return answer, outcome

    def _reviewed(self, review: dict[str, Any], shared: Lookup, rules: Rules) -> tuple[dict[str, Any], HttpResponse]:
        reply = warned(self._reviewer(review, self._defaults, shared, rules), self._nodes.warnings)
        return reply, compact(reply)

    async def _read_namespace(self, review: Mapping[str, Any]) -> _ReadNamespace:
        """Read what the Pod's namespace says beforehand, since the decision is synchronous."""
        name = _namespace_of(review)
        if name is None:
            return _ReadNamespace(NamespaceRules(enforced=self._enforced))
        try:
            return _ReadNamespace(await self._namespaces.rules(name, enforced=self._enforced))
        except AnnotationsError as failure:
            return _ReadNamespace(NO_RULES, failure)
        except NamespaceError as failure:
            raise RequestError(503, str(failure)) from None  # so that failurePolicy decides

    async def _read_policy(
        self, review: Mapping[str, Any], found: Workload | None, namespace: _ReadNamespace
    ) -> _ReadPolicy:
        """Read the one ConfigMap that this Pod or template names, itself or by its namespace."""
        wanted = shared_policy_of(review, found, namespace.rules.defaults)
        if wanted is None:
            return _ReadPolicy(None)
        try:
            return _ReadPolicy(wanted, await self._shared.read(*wanted))
        except SharedPolicyError as failure:
            return _ReadPolicy(wanted, error=failure)

    def _log(self, review: Mapping[str, Any], found: Workload | None, outcome: ReviewOutcome, seconds: float) -> None:
        request = review.get("request")
        fields = request if isinstance(request, Mapping) else {}
        write = log.debug if outcome.result == "allowed" else log.info
        write(
            outcome.result,
            webhook=self._name,
            namespace=_brief(fields.get("namespace")),
            object=_brief(found.name if found else None),
            uid=_brief(fields.get("uid")),
            patch_bytes=outcome.patch_bytes,
            milliseconds=round(seconds * 1000, 2),
        )


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


def parse_review(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises :class:`RequestError` if it is invalid."""
    try:
        review = json.loads(body.decode("utf-8-sig"), parse_float=_finite, parse_constant=_no_constant)
        if b"\\u" in body:
            # A lone surrogate is not valid text; encoding it anywhere would fail.
            json.dumps(review, ensure_ascii=False).encode()
    except UnicodeError:
        raise RequestError(400, "The body is not valid UTF-8 text.") from None
    except RecursionError:
        raise RequestError(400, "The body is nested too deeply.") from None
    except ValueError as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(review, dict):
        raise RequestError(400, f"The body is a JSON {type(review).__name__}, where an AdmissionReview is an object.")
    return review


def shared_policy_of(
    review: Mapping[str, Any], found: Workload | None, defaults: Mapping[str, str]
) -> tuple[str, str] | None:
    """Namespace and name of the ConfigMap in the annotations of a Pod or template, if any; ``defaults`` are its
    namespace's."""
    namespace = _namespace_of(review)
    if namespace is None or found is None:
        return None
    own = {key: value for key, value in annotations_of(found.pod).items() if isinstance(value, str)}
    name = shared_policy_name({**defaults, **own})
    return (namespace, name) if name else None


def _namespace_of(review: Mapping[str, Any]) -> str | None:
    request = review.get("request")
    name = request.get("namespace") if isinstance(request, Mapping) else None
    return name if isinstance(name, str) and _NAMESPACE.fullmatch(name) else None


def _texts_of(found: Workload | None) -> int:
    """The characters of the annotations of a Pod or template."""
    texts = annotations_of(found.pod).values() if found else ()
    return sum(len(text) for text in texts if isinstance(text, str))


def outcome_of(reply: Mapping[str, Any]) -> ReviewOutcome:
    """The result of a response, in a word."""
    response = reply.get("response")
    if not isinstance(response, Mapping):
        return ReviewOutcome("error")
    if not response.get("allowed"):
        return ReviewOutcome("refused")
    patch = response.get("patch")
    if not patch:
        return ReviewOutcome("allowed")
    try:
        return ReviewOutcome("patched", len(base64.b64decode(patch)))
    except binascii.Error:
        return ReviewOutcome("error")


def _brief(name: object) -> str | None:
    """For the log: a name is not validated yet, and may be of any type and length."""
    return name[:_LONGEST_NAME] if isinstance(name, str) else None


def _check_head(request: HttpRequest) -> None:
    if request.method != "POST":
        raise RequestError(405, "Reviews come by POST.", ("allow", "POST"))
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise RequestError(415, f"Reviews are {JSON}, not {content_type[:100] or 'something without a content type'}.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
