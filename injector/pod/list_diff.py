"""The lists of a Pod's spec before and after injection: the injector's items, and their changes. Pure.

A list is never replaced, and other items neither move nor change: items are removed and added one by one. Both forms of
an injection, the JSON patch and the edited manifest, are made of these changes.

If the Pod already carries the status that would be written, later changes of others to the injected containers (the API
server's defaults, VerticalPodAutoscaler's resources) are kept. Missing items, wrong positions and what decides whether
limits are kept (:mod:`injector.pod.integrity`) are corrected. With another status (annotations, defaults or Podlane's
version have changed) the injected items are made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from injector.pod.integrity import altered, altered_volume
from injector.pod.pods import (
    CONTAINERS,
    INIT_CONTAINERS,
    ISTIO_INIT,
    ISTIO_PROXY,
    LINKERD,
    PULL_SECRETS,
    RESERVED,
    VOLUMES,
    annotations_of,
    metadata_of,
    name_of,
    spec_of,
)
from injector.pod.status import InjectionStatus
from traffic_policy.pod.annotations import EFFECTIVE, STATUS

LISTS: Final = (INIT_CONTAINERS, CONTAINERS, VOLUMES, PULL_SECRETS)
"""The lists of a spec that an injection changes; containers only to remove those of version 0.1."""

Items = Mapping[str, tuple[Mapping[str, Any], ...]]


@dataclass(frozen=True, slots=True)
class ListChange:
    """The change of one list: first items are ``removed`` (old indices), then ``added`` (new index, and item).

    ``create``: the list did not exist; ``drop``: it no longer exists afterwards.
    """

    key: str
    removed: tuple[int, ...]
    added: tuple[tuple[int, Mapping[str, Any]], ...]
    create: bool = False
    drop: bool = False

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.create or self.drop)


@dataclass(frozen=True, slots=True)
class PodChange:
    """All changes of a Pod. ``status``: the annotation's text, None to remove it, and ``annotations`` with it if
    ``last`` (there are no others). ``status_changes``: whether it changes at all. ``governance`` and
    ``governance_changes``: the same of what policies of the cluster say."""

    lists: tuple[ListChange, ...] = ()
    status: str | None = None
    status_changes: bool = False
    last: bool = False
    governance: str | None = None
    governance_changes: bool = False

    def __bool__(self) -> bool:
        return bool(self.lists or self.texts)

    @property
    def texts(self) -> dict[str, str | None]:
        """The annotations that change, and what they say then; None: they go."""
        status = {STATUS: self.status} if self.status_changes else {}
        return {**status, EFFECTIVE: self.governance} if self.governance_changes else {**status}


def injection(
    pod: Mapping[str, Any],
    items: Items,
    status: InjectionStatus,
    trusted: Sequence[str] = (),
    governance: str | None = None,
) -> PodChange:
    """The changes that inject ``items`` into a Pod, whether or not it was injected before.

    ``trusted``: further repositories of the sidecar's image. ``governance``: what policies of the cluster say; None:
    what is there stays.
    """
    text = status.text()
    same = annotations_of(pod).get(STATUS) == text
    bare, carried = without_ours(pod), InjectionStatus.from_pod(pod)

    def after(key: str) -> list[Any] | None:
        current, wanted = _list(pod, key), items.get(key, ())
        kept = _kept(key, current or (), wanted, carried, trusted) if same else None
        return _after(key, current, _list(bare, key), wanted, kept, carried)

    found = (_change(key, _list(pod, key), after(key), carried) for key in LISTS)
    says_more = governance is not None and annotations_of(pod).get(EFFECTIVE) != governance
    lists = tuple(change for change in found if change)
    return PodChange(lists, text, status_changes=not same, governance=governance, governance_changes=says_more)


def removal(pod: Mapping[str, Any]) -> PodChange:
    """The changes that remove everything injected; none for a Pod without a status."""
    carried = InjectionStatus.from_pod(pod)
    if carried is None:
        return PodChange()
    bare = without_ours(pod)
    found = (_change(key, _list(pod, key), _list(bare, key), carried) for key in LISTS)
    told = EFFECTIVE in annotations_of(pod)
    last = not set(annotations_of(pod)) - {STATUS, EFFECTIVE}
    lists = tuple(change for change in found if change)
    return PodChange(lists, None, status_changes=True, last=last, governance_changes=told)


def without_ours(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Pod as before injection. Without a status nothing in it was injected."""
    status = InjectionStatus.from_pod(pod)
    if status is None:
        return pod
    bare = dict(spec_of(pod))
    for key in LISTS:
        items = bare.get(key)
        if not isinstance(items, list):
            continue
        bare[key] = [item for item in items if not _is_ours(key, item, status)]
        if not bare[key] and key in status.created:
            del bare[key]
    about = dict(metadata_of(pod))
    about["annotations"] = {name: value for name, value in annotations_of(pod).items() if name != STATUS}
    if not about["annotations"]:
        del about["annotations"]
    return {**pod, "metadata": about, "spec": bare}


def _is_ours(key: str, item: object, status: InjectionStatus | None) -> bool:
    if status is None:
        return False
    return name_of(item) in (status.injected.imagePullSecrets if key == PULL_SECRETS else RESERVED[key])


def _list(pod: Mapping[str, Any], key: str) -> list[Any] | None:
    items = spec_of(pod).get(key)
    return items if isinstance(items, list) else None


def _kept(
    key: str,
    current: Sequence[Any],
    wanted: Sequence[Mapping[str, Any]],
    carried: InjectionStatus | None,
    trusted: Sequence[str],
) -> dict[str, Any]:
    """The injected items that can stay as they are, by name."""
    planned = {name_of(item): item for item in wanted}
    return {
        name: item
        for item in current
        if _is_ours(key, item, carried) and (name := name_of(item)) in planned
        if is_intact(key, planned[name], item, trusted)
    }


def is_intact(key: str, planned: Mapping[str, Any], found: Mapping[str, Any], trusted: Sequence[str]) -> bool:
    """Whether an item of a list is still what was injected."""
    if key == VOLUMES:
        return not altered_volume(planned, found)
    return key == PULL_SECRETS or next(altered(planned, found, trusted), None) is None


def _after(
    key: str,
    current: list[Any] | None,
    others: list[Any] | None,
    items: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Any] | None,
    carried: InjectionStatus | None,
) -> list[Any] | None:
    """A list after the injection. ``kept``: the items that stay, None if the status changes, so that none do."""
    wanted = {name_of(item): (kept or {}).get(name_of(item), item) for item in items}
    if not wanted:
        return others
    result = list(others or ())
    if key == INIT_CONTAINERS:
        for item in wanted.values():
            result.insert(position(result), item)
        return result
    if kept is not None:
        # The order of volumes and secrets has no meaning: existing items stay in place.
        result = [item for item in current or () if not _is_ours(key, item, carried) or name_of(item) in kept]
        return [*result, *(item for name, item in wanted.items() if name not in kept)]
    return [*result, *wanted.values()]


def position(others: Sequence[Any]) -> int:
    """The sidecar's index among init containers, given the ``others``.

    First, so that the application's init containers are shaped too, and no other sidecar sends before it. With a mesh,
    after the last of its containers: the mesh's redirection must be installed before the capture, and the traffic
    leaving the Pod is that of its proxy. The position is corrected when the webhook is called again after other changes
    of the Pod.
    """
    mesh = (ISTIO_PROXY, *ISTIO_INIT, *LINKERD)
    return max((i for i, item in enumerate(others) if name_of(item) in mesh), default=-1) + 1


def _change(key: str, before: list[Any] | None, after: list[Any] | None, carried: InjectionStatus | None) -> ListChange:
    """The change from one list to the other; other items are in both, in the same order."""
    if after is None:
        return ListChange(key, (), (), drop=before is not None)
    if before is None:
        return ListChange(key, (), tuple(enumerate(after)), create=True)
    removed: list[int] = []
    added: list[tuple[int, Mapping[str, Any]]] = []
    i = 0
    for j, item in enumerate(after):
        while i < len(before) and before[i] != item and _is_ours(key, before[i], carried):
            removed.append(i)
            i += 1
        if i < len(before) and before[i] == item:
            i += 1
        else:
            added.append((j, item))
    removed += range(i, len(before))
    return ListChange(key, tuple(removed), tuple(added))


def changed(pod: Mapping[str, Any], change: PodChange) -> dict[str, Any]:
    """The Pod after a change."""
    spec, about = dict(spec_of(pod)), dict(metadata_of(pod))
    for each in change.lists:
        if each.drop:
            del spec[each.key]
            continue
        items = [item for i, item in enumerate(_list(pod, each.key) or ()) if i not in each.removed]
        for i, item in each.added:
            items.insert(i, item)
        spec[each.key] = items
    if texts := change.texts:
        kept = {name: value for name, value in annotations_of(pod).items() if name not in texts}
        about["annotations"] = {**kept, **{name: text for name, text in texts.items() if text is not None}}
        if change.last:
            del about["annotations"]
    return {**pod, "metadata": about, "spec": spec}
