"""Budgets: what the Pods of this node that one policy governs may send together, shared out among them."""
