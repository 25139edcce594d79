"""The metrics of budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daemon.prometheus_text import MetricFamily, gauge
from node_agent.budgets.budget_share import BudgetShare


def budget_families(
    shares: Iterable[tuple[Sequence[str], BudgetShare]], labels: Sequence[str]
) -> tuple[MetricFamily, ...]:
    """``shares`` are those of workloads, with the values of these labels."""
    whole = gauge("podlane_budget_bits_per_second", "What all Pods of a policy may send on this node.", "policy")
    part = gauge("podlane_budget_share_bits_per_second", "What a Pod has of a budget now.", *labels, "policy")
    told: set[str] = set()
    for values, share in shares:
        part.add(share.share.bits_per_second, *values, share.policy)
        if share.policy not in told:
            told.add(share.policy)
            whole.add(share.budget.bits_per_second, share.policy)
    return whole, part
