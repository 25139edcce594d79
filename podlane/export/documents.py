"""TrafficPolicies as text, made of what workloads have, and what they cannot say. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from podlane.export.groups import WorkloadGroup, grouped
from podlane.export.limits import NamespaceLimits
from traffic_policy.cluster.kinds import API_VERSION, TRAFFIC_POLICY

_LONGEST_NAME: Final = 63
_TOLD: Final = 10
"""Workloads that a comment names."""
_NO_NAME: Final = re.compile(r"[^a-z0-9]+")


@dataclass(slots=True)
class ExportedPolicies:
    """``text`` is YAML, one document for each policy; ``problems`` say what is not in it, ``notes`` what is to know."""

    text: str = ""
    policies: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def exported(namespaces: Sequence[NamespaceLimits]) -> ExportedPolicies:
    """The policies of all these namespaces."""
    made = ExportedPolicies()
    parts = []
    for each in namespaces:
        made.problems += each.problems
        made.notes += each.notes
        names: set[str] = set()
        for group in grouped(each.workloads):
            if group.selector is None:
                made.problems.append(_same_labels(group))
                continue
            parts.append(_document(group, each.namespace, names))
            if not group.selector:
                who = ", ".join(workload.name for workload in group.workloads)
                made.notes.append(f"The policy for {who} is for all Pods of the namespace: they share no label.")
    made.text, made.policies = "---\n".join(parts), len(parts)
    return made


def _same_labels(group: WorkloadGroup) -> str:
    (workload,) = group.workloads
    others = ", ".join(group.mistaken[:_TOLD])
    return (
        f"{workload.name} is left out: {f'{others} has the same labels' if others else 'it has no labels'}, so that no "
        "selector takes its Pods alone. Give its Pods a label of their own, as app."
    )


def _document(group: WorkloadGroup, namespace: str, names: set[str]) -> str:
    name = _name(group, names)
    names.add(name)
    selector = {"podSelector": group.selector} if group.selector else {}
    document = {
        "apiVersion": API_VERSION,
        "kind": TRAFFIC_POLICY,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "spec": {**selector, **group.document},
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in _comments(group)) + text


def _comments(group: WorkloadGroup) -> Iterator[str]:
    named = [each.name for each in group.workloads[:_TOLD]]
    more = len(group.workloads) - len(named)
    yield f"From {', '.join(named)}{f' and {more} more' if more else ''}."
    if staying := sorted({name for each in group.workloads for name in each.staying}):
        yield f"No policy says these annotations, which stay: {', '.join(staying)}."


def _name(group: WorkloadGroup, taken: set[str]) -> str:
    """After what the group is selected by, or after its first workload."""
    wanted = next(iter(_selected_values(group.selector or {})), group.workloads[0].name.partition("/")[2])
    base = _NO_NAME.sub("-", wanted.lower()).strip("-")[:_LONGEST_NAME].strip("-") or "policy"
    name, number = base, 2
    while name in taken:
        name, number = f"{base[: _LONGEST_NAME - 4]}-{number}", number + 1
    return name


def _selected_values(selector: Any) -> Iterator[str]:
    labels = selector.get("matchLabels", {})
    if len(labels) == 1:
        yield from labels.values()
