"""Changes of a Pod as a JSON patch (RFC 6902), for the API server. Pure.

Operations are ``add`` and ``remove`` of single items, and ``add`` of a whole list only if it did not exist, so that the
patch holds no copy of unchanged items. Injecting again results in no operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from injector.pod.list_diff import ListChange, PodChange, injection
from injector.pod.plan import InjectionPlan
from injector.pod.pods import annotations_of
from traffic_policy.pod.annotations import EFFECTIVE, STATUS

_ANNOTATIONS: Final = "/metadata/annotations"


def _annotation(name: str) -> str:
    """JSON Pointer (RFC 6901 section 3)."""
    return f"{_ANNOTATIONS}/{name.replace('~', '~0').replace('/', '~1')}"


def patch(pod: Mapping[str, Any], plan: InjectionPlan) -> list[dict[str, Any]]:
    """The operations of a plan. Annotations come last: the status, which changes with them, makes the place."""
    change = injection(pod, plan.items, plan.status, plan.trusted)
    wanted = dict(plan.annotations)
    if plan.governance is not None and annotations_of(pod).get(EFFECTIVE) != plan.governance:
        wanted[EFFECTIVE] = plan.governance
    added = [{"op": "add", "path": _annotation(name), "value": text} for name, text in wanted.items()]
    return [*operations(change, pod), *added]


def operations(change: PodChange, pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The operations of a change, in the order in which they must be applied."""
    for each in change.lists:
        yield from _list_operations(each)
    if not change.status_changes:
        return
    if change.status is None:
        yield {"op": "remove", "path": _ANNOTATIONS if change.last else _annotation(STATUS)}
    else:
        if not isinstance(pod.get("metadata"), Mapping):
            yield {"op": "add", "path": "/metadata", "value": {}}
        if not isinstance((pod.get("metadata") or {}).get("annotations"), Mapping):
            yield {"op": "add", "path": _ANNOTATIONS, "value": {}}
        yield {"op": "add", "path": _annotation(STATUS), "value": change.status}


def _list_operations(change: ListChange) -> Iterator[dict[str, Any]]:
    path = f"/spec/{change.key}"
    if change.drop:
        yield {"op": "remove", "path": path}
    elif change.create:
        yield {"op": "add", "path": path, "value": [item for _, item in change.added]}
    else:
        yield from ({"op": "remove", "path": f"{path}/{i}"} for i in reversed(change.removed))
        yield from ({"op": "add", "path": f"{path}/{i}", "value": item} for i, item in change.added)
