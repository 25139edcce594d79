"""What the annotations of a Pod mean to the agent of its node. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traffic_policy.cluster.caps import CapsOf
from traffic_policy.pod.composition import BasePolicy
from traffic_policy.pod.effective import AnnotationsError, PodPolicy, effective
from traffic_policy.pod.governed import within
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.scope import beyond_agent


def effective_for_agent(
    annotations: Mapping[str, str],
    rules: NamespaceRules = NO_RULES,
    *,
    shared: str | None = None,
    base: BasePolicy | None = None,
    caps: Sequence[CapsOf] = (),
) -> PodPolicy:
    """Evaluate a Pod's annotations, with those that its namespace has as defaults, under the namespace's maxima.

    The injector refuses by this what the agent could not put in force. ``shared`` and ``base`` are as for
    :func:`effective`; ``caps`` lower what is more than they allow. Raises :class:`AnnotationsError`.
    """
    policy = effective(annotations, shared=shared, base=base)
    if added := rules.totals(annotations, policy):
        annotations = {**annotations, **added}
        policy = effective(annotations, shared=shared, base=base)
    rules.refuse_beyond(annotations)
    policy = within(policy, caps)
    if problems := beyond_agent(policy.policy):
        raise AnnotationsError(problems)
    return policy
