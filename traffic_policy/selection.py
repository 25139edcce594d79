"""Which of a fleet's policies a workload has. Pure.

A policy is for the workloads that have all labels of its selector, on nodes that have all labels that it names for
those; empty ones are for all. Of several that are for a workload the one with more labels counts, those for nodes
included, and of those the one whose name sorts first: who wins must not depend on who came last. It is the weakest
source: a workload with a policy of its own has none of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol, TypeVar

NAMESPACE_LABEL: Final = "podlane.io/namespace"
"""A label that each Pod has for selectors: the name of its namespace. One of the Pod's own by this name is hidden."""

CLUSTER_LABEL: Final = "podlane.io/cluster"
"""A label that each node of a fleet has for selectors: the name of its cluster."""


class SelectingPolicy(Protocol):
    """What is asked of a policy here."""

    @property
    def name(self) -> str:
        """Unique among those of a fleet."""

    @property
    def selector(self) -> Mapping[str, str]:
        """Labels of workloads."""

    @property
    def nodes(self) -> Mapping[str, str]:
        """Labels of nodes. Only policies for the node are looked at, so that their number alone counts."""


_P = TypeVar("_P", bound=SelectingPolicy)


def selected(policies: Iterable[_P], labels: Mapping[str, str]) -> _P | None:
    """The policy for a workload with these labels; None: there is none."""
    matching = [each for each in policies if all(labels.get(key) == value for key, value in each.selector.items())]
    return min(matching, key=lambda each: (-len(each.selector) - len(each.nodes), each.name), default=None)


def labels_of_pod(namespace: str, labels: Mapping[str, object]) -> dict[str, str]:
    """The labels by which a Pod is selected."""
    return {**{key: str(value) for key, value in labels.items()}, NAMESPACE_LABEL: namespace}


def labels_of_node(cluster: str, of_cluster: Mapping[str, str], reported: Mapping[str, str]) -> dict[str, str]:
    """The labels by which a node is selected: what its agent says, and over it what is known of its cluster."""
    return {**reported, **of_cluster, CLUSTER_LABEL: cluster}
