"""What a namespace says about its Pods: defaults, and how much they may ask for. Pure.

Only who may change the Namespace object can say it, which owners of Pods usually may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from traffic_policy.cluster.objects import PolicyVerdict
from traffic_policy.errors import Problem
from traffic_policy.pod.annotations import (
    ANNOTATIONS,
    EGRESS,
    INGRESS,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    MAX_EGRESS,
    MAX_INGRESS,
    PREFIX,
)
from traffic_policy.pod.effective import AnnotationsError, PodPolicy
from traffic_policy.pod.mode import Mode, namespace_mode
from traffic_policy.pod.quantities import bandwidth, bandwidth_text
from traffic_policy.units import Rate


@dataclass(frozen=True, slots=True)
class NamespaceRules:
    """``defaults``: annotations for Pods that do not have them. ``most_sent`` and ``most_received``: the greatest
    totals that a Pod may have; None: any. ``enforced``: no Pod may be without limits. ``mode``: who holds Pods
    to them that do not say it themselves; None: the namespace does not say it either. ``verdict``: which of the
    cluster's policies the Pod in question has; None: that is not known."""

    defaults: Mapping[str, str] = field(default_factory=dict)
    most_sent: Rate | None = None
    most_received: Rate | None = None
    enforced: bool = False
    mode: Mode | None = None
    verdict: PolicyVerdict | None = None

    @classmethod
    def from_annotations(
        cls, annotations: Mapping[str, Any], labels: Mapping[str, Any] | None = None, *, enforced: bool = False
    ) -> NamespaceRules:
        """The rules in a Namespace's annotations and labels. Raises :class:`AnnotationsError`."""
        unknown = [n for n in annotations if n.startswith(PREFIX) and n not in (*ANNOTATIONS, MAX_EGRESS, MAX_INGRESS)]
        if unknown:
            raise _wrong(
                f"The namespace has the annotation {unknown[0][:100]}, which there is not. A namespace may have those "
                f"of Pods, as defaults, and {MAX_EGRESS} and {MAX_INGRESS}. Ask your cluster's administrator to "
                "correct it."
            )
        return cls(
            {name: text for name in ANNOTATIONS if isinstance(text := annotations.get(name), str)},
            _most(annotations, MAX_EGRESS),
            _most(annotations, MAX_INGRESS),
            enforced,
            namespace_mode(labels or {}),
        )

    def missing(self, own: Mapping[str, Any]) -> dict[str, str]:
        """The defaults that a Pod with these annotations needs. What it has for a bandwidth plugin counts as its
        own."""
        theirs = {EGRESS: KUBERNETES_EGRESS, INGRESS: KUBERNETES_INGRESS}
        return {
            name: text for name, text in self.defaults.items() if name not in own and theirs.get(name, name) not in own
        }

    def totals(self, own: Mapping[str, Any], policy: PodPolicy) -> dict[str, str]:
        """The annotations that a Pod with these ones needs so that nothing but them decides about its totals: a shared
        policy may change while it runs."""
        received = policy.policy.ingress
        added = {}
        if self.most_sent is not None and EGRESS not in own and KUBERNETES_EGRESS not in own:
            added[EGRESS] = bandwidth_text(min(policy.policy.total, self.most_sent))
        if self.most_received is not None and INGRESS not in own and KUBERNETES_INGRESS not in own:
            asked = self.most_received if received is None else received.total
            added[INGRESS] = bandwidth_text(min(asked, self.most_received))
        return added

    def refuse_beyond(self, own: Mapping[str, Any]) -> None:
        """Raise :class:`AnnotationsError` for totals of a Pod with these annotations that are more than it may have."""
        problems = [*self._beyond(own)]
        if problems:
            raise AnnotationsError(problems)

    def _beyond(self, own: Mapping[str, Any]) -> Iterator[Problem]:
        for most, ours, theirs, limit in (
            (self.most_sent, EGRESS, KUBERNETES_EGRESS, MAX_EGRESS),
            (self.most_received, INGRESS, KUBERNETES_INGRESS, MAX_INGRESS),
        ):
            if most is None:
                continue
            name = ours if ours in own else theirs
            asked = bandwidth(str(own[name]).strip()) if name in own else None
            if asked is not None and asked > most:
                yield Problem(
                    name,
                    f"{bandwidth_text(asked)} is more than the namespace allows its Pods, {bandwidth_text(most)}. "
                    f"Lower it, or have your cluster's administrator raise {limit} of the namespace.",
                )
            elif ours not in own and theirs not in own:
                yield Problem(
                    ours,
                    f"The namespace has {limit}, so that its Pods need this annotation. Add it, with "
                    f"{bandwidth_text(most)} at most.",
                )


NO_RULES: Final = NamespaceRules()


def _most(annotations: Mapping[str, Any], name: str) -> Rate | None:
    text = annotations.get(name)
    if text is None:
        return None
    try:
        return bandwidth(str(text).strip())
    except ValueError as error:
        raise _wrong(
            f"The namespace's annotation {name} cannot be read: {str(error)[:300]} Ask your cluster's administrator to "
            "correct it."
        ) from None


def _wrong(message: str) -> AnnotationsError:
    return AnnotationsError([Problem("", message)])
