"""What the annotations of a Pod mean to the agent of its node. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traffic_policy.pod.effective import AnnotationsError, PodPolicy, effective
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.scope import beyond_agent


def effective_for_agent(
    annotations: Mapping[str, str],
    rules: NamespaceRules = NO_RULES,
    *,
    shared: str | None = None,
    fleet: Mapping[str, Any] | None = None,
) -> PodPolicy:
    """Evaluate a Pod's annotations, with those that its namespace has as defaults, under the namespace's maxima.

    The injector refuses by this what the agent could not put in force. ``shared`` and ``fleet`` are as for
    :func:`effective`. Raises :class:`AnnotationsError`.
    """
    policy = effective(annotations, shared=shared, fleet=fleet)
    if added := rules.totals(annotations, policy):
        annotations = {**annotations, **added}
        policy = effective(annotations, shared=shared, fleet=fleet)
    rules.refuse_beyond(annotations, policy)
    if problems := beyond_agent(policy.policy):
        raise AnnotationsError(problems)
    return policy
