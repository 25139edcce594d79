"""Reviews as bytes: read, decided and answered. Pure, and light to import, since a process of its own does it for large
ones (:mod:`injector.server.worker`)."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from daemon.http import RequestError
from daemon.kubernetes.event_series import Happening
from injector.errors import SharedPolicyError
from injector.pod.defaults import InjectionDefaults
from injector.pod.pods import annotations_of, labels_of, mapping
from injector.pod.policies import policy_change
from injector.pod.reviews import Rules, warned, workload_in
from injector.pod.reviews import SharedPolicies as Lookup
from traffic_policy.cluster.outlook import PolicyChange
from traffic_policy.pod.annotations import POLICY
from traffic_policy.pod.effective import AnnotationsError, shared_policy_name
from traffic_policy.pod.namespace import NamespaceRules

_LONGEST_NAME: Final = 253
"""Characters of an object's name (a DNS subdomain, RFC 1123)."""
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): it becomes part of a path."""

Reviewer = Callable[[Mapping[str, Any], InjectionDefaults, Lookup, Rules], dict[str, Any]]
Telling = Callable[[Mapping[str, Any], Mapping[str, Any]], Happening | None]
"""Of a review and its answer: what the controller's object is to hear (:mod:`injector.pod.happenings`)."""


def nothing(_review: Mapping[str, Any], _reply: Mapping[str, Any]) -> None:
    """Nobody is to hear anything."""


@dataclass(frozen=True, slots=True)
class ReviewOutcome:
    """The content of a response: the result for the metrics, and the size of the patch in bytes."""

    result: str
    patch_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReadPolicy:
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
class ReadNamespace:
    """What the Pod's namespace says, or why that is not known."""

    rules: NamespaceRules
    error: AnnotationsError | None = None

    @property
    def size(self) -> int:
        """Characters that have to be read."""
        verdict = self.rules.verdict
        policy = 0 if verdict is None or verdict.winner is None else len(json.dumps(verdict.winner.document))
        return policy + sum(map(len, self.rules.defaults.values()))

    def get(self) -> NamespaceRules:
        """See :data:`injector.pod.reviews.Rules`."""
        if self.error is not None:
            raise self.error
        return self.rules


@dataclass(frozen=True, slots=True)
class Facts:
    """What a decision needs beside the review: read beforehand, since it is synchronous. ``warnings``: for who creates
    a Pod that gets the sidecar."""

    policy: ReadPolicy
    namespace: ReadNamespace
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Characters that have to be read."""
        return self.namespace.size + len(self.policy.text or "")


@dataclass(frozen=True, slots=True)
class Outline:
    """What of a review must be known before it can be decided, and for the log.

    ``namespace``: None if it has none, or none that can be. ``has_pod``: it is about a Pod or a template. ``policy``:
    the annotation of that which names a ConfigMap. ``texts``: characters of its annotations. ``labels`` are its labels.
    """

    namespace: str | None
    has_pod: bool
    policy: str | None
    texts: int
    labels: Mapping[str, str]
    told: Mapping[str, str | None]

    def shared_policy(self, defaults: Mapping[str, str]) -> tuple[str, str] | None:
        """Namespace and name of the ConfigMap of the Pod or template, if any; ``defaults`` are annotations of its
        namespace."""
        if self.namespace is None or not self.has_pod:
            return None
        name = shared_policy_name({**defaults, **({} if self.policy is None else {POLICY: self.policy})})
        return (self.namespace, name) if name else None


def outlined(body: bytes) -> Outline:
    """Raises :class:`RequestError` for what is no review."""
    return outline(parse_review(body))


def policy_change_in(body: bytes) -> PolicyChange | None:
    """What a review changes of a policy; None: nothing that is judged. Raises :class:`RequestError`."""
    return policy_change(parse_review(body))


def outline(review: Mapping[str, Any]) -> Outline:
    """The same of one that has been parsed."""
    fields = mapping(review.get("request"))
    found, namespace = workload_in(review), fields.get("namespace")
    annotations = annotations_of(found.pod) if found else {}
    policy = annotations.get(POLICY)
    return Outline(
        namespace if isinstance(namespace, str) and _NAMESPACE.fullmatch(namespace) else None,
        found is not None,
        policy if isinstance(policy, str) else None,
        sum(len(text) for text in annotations.values() if isinstance(text, str)),
        {name: text for name, text in labels_of(found.pod if found else {}).items() if isinstance(text, str)},
        {
            "namespace": _brief(namespace),
            "object": _brief(found.name if found else None),
            "uid": _brief(fields.get("uid")),
        },
    )


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


@dataclass(frozen=True, slots=True)
class ReviewAnswer:
    """The answer to a review as JSON, and what it is in a word. ``happening``: what the controller's object hears."""

    body: bytes
    outcome: ReviewOutcome
    happening: Happening | None


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides what one webhook is asked. Can be pickled, if its functions are of modules."""

    reviewer: Reviewer
    defaults: InjectionDefaults
    telling: Telling = nothing

    def decide(self, review: Mapping[str, Any], facts: Facts) -> ReviewAnswer:
        """The answer to a review."""
        reply = warned(
            self.reviewer(review, self.defaults, facts.policy.get, facts.namespace.get),
            facts.warnings,
        )
        # ASCII also represents a lone surrogate, which JSON can escape and UTF-8 cannot encode.
        body = json.dumps(reply, separators=(",", ":")).encode("ascii")
        return ReviewAnswer(body, outcome_of(reply), self.telling(review, reply))

    def decide_body(self, body: bytes, facts: Facts) -> ReviewAnswer:
        """The same of one that has not been parsed. Raises :class:`RequestError` for what is no review."""
        return self.decide(parse_review(body), facts)


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


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
