"""What one workload has of a budget at present. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from traffic_policy.units import Rate


@dataclass(frozen=True, slots=True)
class BudgetShare:
    """``share`` of a ``budget``, which is of the policy ``policy`` and shared by ``pods`` workloads of this node, to
    which ``promised`` is guaranteed together."""

    policy: str
    budget: Rate
    share: Rate
    pods: int
    promised: Rate

    @property
    def warning(self) -> str:
        """What cannot be kept, as a sentence; empty: everything can."""
        if self.promised <= self.budget:
            return ""
        return (
            f"The rates that {self.policy} guarantees to {self.pods} Pods of this node, {self.promised.human}, are "
            f"more than its budget of {self.budget.human}. When all want them, each gets the same part of its own. "
            "Raise budget.node, or lower the rates."
        )
