"""What the cluster says of a Pod beside its own annotations, as one annotation of it, and the policy of both. Pure.

A sidecar asks no API server. So the injector writes :data:`~traffic_policy.pod.annotations.EFFECTIVE` when a Pod is
created, the operator keeps it current, and the sidecar reads it where it reads the Pod's annotations. It holds which
policy has won (:func:`traffic_policy.cluster.objects.who_wins`), and all caps; the Pod's annotations go over the one
and stay within the others, as for an agent.

What a namespace allows its Pods at most are caps there: the injector refuses more when a Pod is created or changed, but
a sidecar that runs must have something that it can honour when the namespace allows less by now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from traffic_policy.cluster.caps import CapsOf, capped
from traffic_policy.cluster.target import PolicyCaps
from traffic_policy.errors import PolicyError, Problem
from traffic_policy.pod.annotations import EFFECTIVE, MAX_EGRESS, MAX_INGRESS
from traffic_policy.pod.composition import BasePolicy
from traffic_policy.pod.effective import AnnotationsError, PodPolicy, effective, has_limits

if TYPE_CHECKING:
    from traffic_policy.cluster.objects import PolicyVerdict
    from traffic_policy.pod.namespace import NamespaceRules

MOST_CHARACTERS: Final = 128 * 1024
"""All annotations of an object may have 256 KiB (k8s.io/apimachinery, TotalAnnotationSizeLimitB)."""
RELEASED: Final = BasePolicy({"total": "10Tbit"}, "no policy")
"""For a Pod with a sidecar that nothing limits any more: the sidecar stays in it, and holds it to nothing."""
_FREE: Final = (
    "No policy of the cluster is for this Pod any more, and its annotations set no limit: it is held to none until one "
    "is."
)


@dataclass(frozen=True, slots=True)
class Governance:
    """What the annotation holds. ``base`` is the policy that has won, with the ``uid`` and ``generation`` of its
    object; None: none is for the Pod."""

    base: BasePolicy | None = None
    uid: str = ""
    generation: int = 0
    caps: tuple[CapsOf, ...] = ()

    @classmethod
    def from_verdict(cls, verdict: PolicyVerdict, rules: NamespaceRules) -> Self:
        """Of which policies are for a Pod, and what its namespace allows."""
        most = (
            (rules.most_sent, MAX_EGRESS, "total"),
            (rules.most_received, MAX_INGRESS, "ingress"),
        )
        maxima = (
            CapsOf(f"{name} of the namespace", PolicyCaps.model_validate({key: str(rate)}))
            for rate, name, key in most
            if rate is not None
        )
        won = verdict.winner
        uid, generation = ("", 0) if won is None else (won.uid, won.generation)
        return cls(verdict.base, uid, generation, (*verdict.caps, *maxima))

    @classmethod
    def read(cls, text: str) -> Self:
        """From the annotation's text. Raises :class:`AnnotationsError`."""
        try:
            found = json.loads(text)
            won = found.get("policy")
            caps = tuple(_caps(each) for each in found.get("caps", ()))
            if won is None:
                return cls(caps=caps)
            base = BasePolicy(dict(won["spec"]), str(won["name"]))
            return cls(base, str(won["uid"]), int(won["generation"]), caps)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
            text = "Podlane's injector or operator wrote it, and it cannot be read. Leave it to them, or remove it."
            raise AnnotationsError([Problem(EFFECTIVE, text)]) from None

    def text(self) -> str:
        """The annotation's text, the same for what is the same. Raises :class:`AnnotationsError` if it is too long for
        one."""
        document: dict[str, Any] = {}
        if self.base is not None:
            about = {"name": self.base.name, "uid": self.uid, "generation": self.generation}
            document["policy"] = {**about, "spec": self.base.document}
        if self.caps:
            document["caps"] = [{"of": each.name, **_limits(each.caps)} for each in self.caps]
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        if len(text) > MOST_CHARACTERS:
            name = "Caps" if self.base is None else self.base.name
            problem = (
                f"{name} has {len(text)} characters, and a Pod with a sidecar carries them in an annotation, which may "
                f"have {MOST_CHARACTERS}. Shorten it, or have agents hold these Pods."
            )
            raise AnnotationsError([Problem("", problem)])
        return text

    def releases(self, annotations: Mapping[str, str]) -> bool:
        """Whether nothing says a limit for a Pod with these annotations."""
        return self.base is None and not has_limits(annotations)


NOTHING: Final = Governance().text()
"""The annotation of a Pod that no policy of the cluster is for."""


def governed(annotations: Mapping[str, str], *, shared: str | None = None) -> PodPolicy:
    """Evaluate all annotations of a Pod with a sidecar. ``shared`` is as for :func:`effective`.

    Without :data:`~traffic_policy.pod.annotations.EFFECTIVE` they alone count. Raises :class:`AnnotationsError`.
    """
    text = annotations.get(EFFECTIVE)
    if text is None:
        return effective(annotations, shared=shared)
    said = Governance.read(text)
    released = said.releases(annotations)
    policy = within(effective(annotations, shared=shared, base=RELEASED if released else said.base), said.caps)
    policy = _without_budget(policy, said.base)
    return replace(policy, warnings=(*policy.warnings, _FREE)) if released else policy


def _without_budget(policy: PodPolicy, base: BasePolicy | None) -> PodPolicy:
    """A sidecar knows no other Pods."""
    budget = policy.policy.budget
    if budget is None or base is None:
        return policy
    told = (
        f"The budget of {base.name}, {budget.node} for the Pods of a node, is not kept here: this Pod has a sidecar, "
        "which knows no other Pods, so its own total alone holds it. Have the agent of its node hold it instead "
        "(podlane.io/mode: agent)."
    )
    alone = policy.policy.model_copy(update={"budget": None})
    return replace(policy, policy=alone, warnings=(*policy.warnings, told), unkept=(told,))


def within(policy: PodPolicy, caps: Sequence[CapsOf]) -> PodPolicy:
    """A Pod's policy within caps, and what they have lowered. Raises :class:`AnnotationsError`."""
    if not caps:
        return policy
    try:
        lowered, clamps = capped(policy.policy, caps)
    except PolicyError as error:
        raise AnnotationsError([Problem("", str(each)) for each in error.problems]) from None
    return replace(policy, policy=lowered, clamps=clamps, warnings=(*policy.warnings, *map(str, clamps)))


def _caps(found: Mapping[str, Any]) -> CapsOf:
    limits = {key: value for key, value in found.items() if key != "of"}
    return CapsOf(str(found["of"]), PolicyCaps.model_validate(limits))


def _limits(caps: PolicyCaps) -> dict[str, Any]:
    said = {key: getattr(caps, key) for key in PolicyCaps.model_fields}
    return {key: value if key == "priority" else str(value) for key, value in said.items() if value is not None}
