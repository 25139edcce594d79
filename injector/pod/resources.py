"""The sidecar's requests and limits, chosen such that they change as little as possible about its Pod. Pure.

Annotations come first, then the injector's settings, adjusted so that a request is never above its limit. Two Pods get
others:

* One of the QoS class **Guaranteed** keeps it, which takes limits that equal the requests in each container
  (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/).
* Of one with **Pod-level requests** (``spec.resources``,
  https://kubernetes.io/docs/tasks/configure-pod-container/assign-pod-level-resources/) the sidecar requests no more
  than its containers leave, since the API server refuses a sum above them. Where only Pod-level limits are written, it
  makes the sum the request: before webhooks run in Kubernetes 1.34 to 1.36, so that nothing is left, and afterwards
  since 1.37 (feature gate PodLevelResourcesFixDefaulting). Such a resource no longer depends on the containers in the
  Pod's QoS class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

from injector.pod import pods
from injector.pod.defaults import InjectionDefaults
from traffic_policy.errors import Problem
from traffic_policy.pod.annotations import CPU_LIMIT, CPU_REQUEST, MEMORY_LIMIT, MEMORY_REQUEST
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.quantities import Quantity, QuantityError, Resources

CPU: Final = "cpu"
MEMORY: Final = "memory"
_REQUESTS: Final = {CPU: CPU_REQUEST, MEMORY: MEMORY_REQUEST}
"""Annotation of each resource's request."""
_USUAL_EQUAL: Final = {CPU: Quantity.parse("200m"), MEMORY: Quantity.parse("256Mi")}
"""What a sidecar of a Guaranteed Pod has where neither annotations nor settings limit it. It starts with 0.9 s of CPU
time, so in about 5 s; with less the application would wait noticeably, and more would be missed elsewhere."""
_LOST: Final = (
    "The Pod's QoS class Guaranteed becomes Burstable, as the sidecar's requests are not its limits. Give "
    f"{CPU_REQUEST} and {CPU_LIMIT} one value, and {MEMORY_REQUEST} and {MEMORY_LIMIT}."
)
_UNITS: Final[Mapping[str, tuple[Fraction, str]]] = {
    CPU: (Fraction(1, 1000), "m"),
    MEMORY: (Fraction(2**20), "Mi"),
}
"""In which computed quantities are written."""


@dataclass(frozen=True, slots=True)
class _Share:
    """Request and limit of one resource; None: none."""

    request: Quantity | None
    limit: Quantity | None

    @property
    def equal(self) -> bool:
        """Whether this is what the QoS class Guaranteed takes; zero counts as none there."""
        return bool(self.limit and self.limit.value) and _value(self.request) == _value(self.limit)


@dataclass(frozen=True, slots=True)
class SidecarResources:
    """``fields``: the container's ``resources``. ``warnings``: what the Pod's owner should know about them."""

    fields: Mapping[str, Mapping[str, str]]
    warnings: tuple[str, ...] = ()


def sidecar_resources(bare: Mapping[str, Any], defaults: InjectionDefaults, own: Resources) -> SidecarResources:
    """The resources of the sidecar for a Pod without it; ``own`` are those of its annotations.

    Raises :class:`AnnotationsError` for a request by annotation that Pod-level requests have no room for.
    """
    usual = {resource: _usual(resource, defaults, own) for resource in _UNITS}
    level = _pod_level_requests(bare)
    fitted = {resource: _fitted(usual[resource], resource, amount, bare) for resource, amount in level.items()}
    _refuse_too_much(fitted, usual, own)
    told = tuple(_squeezed(fitted, usual))
    kept = {resource: _equal(resource, defaults, own) for resource in _UNITS if resource not in level}
    if not kept or not _is_guaranteed(bare, level):
        return SidecarResources(_fields({**usual, **fitted}), told)
    if not all(share.equal for share in kept.values()):
        return SidecarResources(_fields({**usual, **fitted}), (*told, _LOST))
    if CPU in kept and not (own.cpu_request or own.cpu_limit or defaults.cpu_limit):
        amounts = " and ".join(f"{share.request} {resource}" for resource, share in kept.items())
        raised = (
            f"The sidecar requests {amounts}, and may not use more, so that the Pod keeps its QoS class Guaranteed. "
            f"{CPU_LIMIT} and {MEMORY_LIMIT} set other values."
        )
        told = (*told, raised)
    return SidecarResources(_fields({**usual, **kept, **fitted}), told)


def _fields(shares: Mapping[str, _Share]) -> dict[str, dict[str, str]]:
    requests = {name: share.request.text for name, share in shares.items() if share.request is not None}
    limits = {name: share.limit.text for name, share in shares.items() if share.limit is not None}
    return {part: found for part, found in (("requests", requests), ("limits", limits)) if found}


def _usual(resource: str, defaults: InjectionDefaults, own: Resources) -> _Share:
    """By annotation, else by the settings, adjusted so that they never contradict each other."""
    request, limit = _own(resource, own)
    usual_request, usual_limit = defaults.quantity(f"{resource}_request"), defaults.quantity(f"{resource}_limit")
    if request is None:
        request = usual_request if limit is None or usual_request is None else min(usual_request, limit, key=_value)
    if limit is None:
        limit = usual_limit if request is None or usual_limit is None else max(usual_limit, request, key=_value)
    return _Share(request, limit)


def _equal(resource: str, defaults: InjectionDefaults, own: Resources) -> _Share:
    """A limit that is requested, unless annotations say two values."""
    request, limit = _own(resource, own)
    if request is not None and limit is not None:
        return _Share(request, limit)
    if (one := limit or request) is None:
        one = defaults.quantity(f"{resource}_limit") or _USUAL_EQUAL[resource]
        one = max(one, defaults.quantity(f"{resource}_request") or one, key=_value)
    return _Share(one, one)


def _own(resource: str, own: Resources) -> tuple[Quantity | None, Quantity | None]:
    return getattr(own, f"{resource}_request"), getattr(own, f"{resource}_limit")


def _value(quantity: Quantity | None) -> Fraction:
    return Fraction(0) if quantity is None else quantity.value


# --- the QoS class Guaranteed ---------------------------------------------------------------------------------------


def _is_guaranteed(pod: Mapping[str, Any], level: Collection[str]) -> bool:
    """Whether each container, init containers included, has limits of CPU and memory that are its requests, or the Pod
    itself has, for the resources in ``level`` (k8s.io/kubernetes, pkg/apis/core/v1/helper/qos)."""
    own = list(pods.all_containers(pod))
    return bool(own) and all(
        _has_equal(holder, resource)
        for resource in _UNITS
        for holder in ([pods.spec_of(pod)] if resource in level else own)
    )


def _has_equal(holder: Mapping[str, Any], resource: str) -> bool:
    """Limits without requests count: Kubernetes makes them the requests."""
    limit = _amount(holder, "limits", resource)
    return bool(limit) and _amount(holder, "requests", resource) in (None, limit)


def _amount(holder: Mapping[str, Any], part: str, resource: str) -> Fraction | None:
    """A quantity in ``resources`` of a container or a Pod's spec; None if there is none that can be read."""
    found = pods.mapping(pods.mapping(holder.get("resources")).get(part)).get(resource)
    if found is None or isinstance(found, bool):
        return None
    try:
        return Quantity.parse(str(found)).value
    except QuantityError:
        return None


# --- Pod-level requests ---------------------------------------------------------------------------------------------


def _pod_level_requests(pod: Mapping[str, Any]) -> dict[str, Fraction]:
    """What all containers together may request; the limit where Kubernetes has not set the request to their sum yet."""
    spec = pods.spec_of(pod)
    found = {
        resource: next((amount for part in ("requests", "limits") if (amount := _amount(spec, part, resource))), None)
        for resource in _UNITS
    }
    return {resource: amount for resource, amount in found.items() if amount is not None}


def _fitted(share: _Share, resource: str, together: Fraction, bare: Mapping[str, Any]) -> _Share:
    """A share within what all containers may request ``together``."""
    # Without a request Kubernetes takes the limit for one.
    wanted = share.request or share.limit
    if wanted is None:
        return share
    left = max(together - _requested(bare, resource), Fraction(0))
    return share if wanted.value <= left else _Share(_quantity(left, resource, floor), share.limit)


def _requested(pod: Mapping[str, Any], resource: str) -> Fraction:
    """What the containers request at most at one time, of which init containers run one after the other
    (k8s.io/component-helpers, resource/helpers.go). Sidecars that start late count for all init containers."""

    def request(container: Any) -> Fraction:
        found = _amount(pods.mapping(container), "requests", resource)
        return found if found is not None else _amount(pods.mapping(container), "limits", resource) or Fraction(0)

    spec = pods.spec_of(pod)
    first = pods.listed(spec.get(pods.INIT_CONTAINERS))
    staying = [pods.mapping(each).get("restartPolicy") == "Always" for each in first]
    ending = [request(each) for each, stays in zip(first, staying, strict=True) if not stays]
    together = sum((request(each) for each in pods.listed(spec.get(pods.CONTAINERS))), Fraction(0))
    sidecars = sum((request(each) for each, stays in zip(first, staying, strict=True) if stays), Fraction(0))
    return sidecars + max([together, *ending])


def _refuse_too_much(fitted: Mapping[str, _Share], usual: Mapping[str, _Share], own: Resources) -> None:
    problems = [
        Problem(
            _REQUESTS[resource],
            f"{asked} is more than the Pod's own spec.resources.requests.{resource} leaves, {share.request}. Lower it, "
            "or raise that.",
        )
        for resource, share in fitted.items()
        if share != usual[resource] and (asked := _own(resource, own)[0]) is not None
    ]
    if problems:
        raise AnnotationsError(problems)


def _squeezed(fitted: Mapping[str, _Share], usual: Mapping[str, _Share]) -> Iterator[str]:
    for resource, share in fitted.items():
        wanted = usual[resource].request or usual[resource].limit
        if share == usual[resource] or wanted is None:
            continue
        missing = _quantity(wanted.value - _value(share.request), resource, ceil)
        yield (
            f"The Pod's spec.resources.requests.{resource} leaves the sidecar {share.request}, less than its {wanted}: "
            f"it has to share with the application. Raise it by {missing}, and the limit beside it if that is lower."
        )


def _quantity(value: Fraction, resource: str, whole: Any) -> Quantity:
    unit, suffix = _UNITS[resource]
    number = whole(value / unit)
    return Quantity.parse(f"{number}{suffix}" if number else "0")
