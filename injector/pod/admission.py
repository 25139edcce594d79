"""The answers of the two webhooks about Pods. Pure, and total: any JSON has an answer.

``mutate`` refuses what it cannot honour instead of leaving that to ``validate``: with only one of the two webhooks
installed, Pods must not run without their limits. ``validate`` refuses the same, and Pods that lack injected parts: the
mutating webhook was not reached, or the parts were removed. Templates of Pods are :mod:`injector.pod.templates`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from injector.errors import InjectionError, SharedPolicyError
from injector.pod import net_raw, pods
from injector.pod.containers import CAPABILITY, NAME, SOCKET_CAPABILITY
from injector.pod.defaults import InjectionDefaults, NetRaw
from injector.pod.integrity import altered, altered_volume, repository
from injector.pod.list_diff import Items
from injector.pod.patch import patch
from injector.pod.plan import InjectionPlan, Skip, governance_of, mode_of, plan
from injector.pod.reviews import ReviewRequest, Rules, SharedPolicies, allowed, answered
from injector.pod.status import InjectionStatus
from traffic_policy.pod.annotations import (
    CPU_LIMIT,
    CPU_REQUEST,
    DATAPATH,
    DETECTION_TIMEOUT,
    EFFECTIVE,
    EGRESS,
    IMAGE,
    INJECT_LABEL,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    LOG_LEVEL,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    MESH,
    POLICY,
    PREFIX,
    STATUS,
)
from traffic_policy.pod.mode import Mode
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules

__all__ = [
    "SharedPolicies", "SharedPolicyError", "mutate", "validate", "validate_for_agent", "validate_for_agent_by_default",
]  # fmt: skip

_FIXED: Final = (
    POLICY, DETECTION_TIMEOUT, DATAPATH, MESH, LOG_LEVEL, CPU_REQUEST, CPU_LIMIT, MEMORY_REQUEST, MEMORY_LIMIT, IMAGE,
)  # fmt: skip
"""Annotations that a running sidecar does not follow."""
_WITHOUT_LIMITS: Final = f'To do without limits, set the Pod\'s label {INJECT_LABEL} to "false".'


def mutate(
    review: Any, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules = lambda: NO_RULES
) -> dict[str, Any]:
    """The mutating webhook's answer: a patch, no change, or a refusal. Never raises, for any JSON."""
    return answered(review, _about_pods(partial(_mutate, defaults=defaults, shared=shared, rules=rules)))


def validate(
    review: Any, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules = lambda: NO_RULES
) -> dict[str, Any]:
    """The validating webhook's answer: allowed, or a refusal with the remedy. Never raises, for any JSON."""
    return answered(review, _about_pods(partial(_validate, defaults=defaults, shared=shared, rules=rules)))


def validate_for_agent(
    review: Any, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules = lambda: NO_RULES
) -> dict[str, Any]:
    """The answer about Pods that agents hold by their label, or that of their namespace: as :func:`validate`; all
    others are allowed, as other webhooks are asked about them. Never raises, for any JSON."""
    decide = partial(_validate_for_agent, defaults=defaults, shared=shared, rules=rules)
    return answered(review, _about_pods(decide))


def validate_for_agent_by_default(
    review: Any, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules = lambda: NO_RULES
) -> dict[str, Any]:
    """The same where agents hold Pods for which no label says a mode. Never raises, for any JSON."""

    def agents_otherwise() -> NamespaceRules:
        held = rules()
        return held if held.mode is not None else replace(held, mode=Mode.AGENT)

    decide = partial(_validate_for_agent, defaults=defaults, shared=shared, rules=agents_otherwise)
    return answered(review, _about_pods(decide))


def _validate_for_agent(
    request: ReviewRequest, pod: Mapping[str, Any], defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules
) -> dict[str, Any]:
    if mode_of(pod, rules()) is not Mode.AGENT:
        return allowed()
    return _validate(request, pod, defaults, shared, rules)


def _about_pods(
    decide: Callable[[ReviewRequest, Mapping[str, Any]], dict[str, Any]],
) -> Callable[[ReviewRequest], dict[str, Any]]:
    """Reviews of templates are allowed here."""
    return lambda request: allowed() if request.found.place else decide(request, request.found.pod)


def _mutate(
    request: ReviewRequest, pod: Mapping[str, Any], defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules
) -> dict[str, Any]:
    if request.operation != "CREATE":
        return allowed()
    planned = plan(pod, defaults, partial(shared, request.namespace), rules())
    if isinstance(planned, Skip):
        return allowed(_told(planned))
    response = allowed(planned.warnings)
    dropped = list(net_raw.drops(pod)) if defaults.net_raw is NetRaw.DROP else []
    # First: then the places of containers are those that the Pod has now.
    if found := [*dropped, *patch(pod, planned)]:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(found, separators=(",", ":")).encode()).decode()
    return response


def _validate(
    request: ReviewRequest, pod: Mapping[str, Any], defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules
) -> dict[str, Any]:
    if request.operation != "CREATE":
        return _validate_change(request, pod, defaults, shared, rules)
    planned = plan(pod, defaults, partial(shared, request.namespace), rules())
    if isinstance(planned, Skip):
        return allowed(_told(planned))
    if defaults.net_raw is NetRaw.DROP:
        net_raw.refuse(pod, asked=False)  # another webhook may have given it back
    if missing := ", ".join((*(f"annotation {name}" for name in planned.annotations), *_lacking(pod, planned.items))):
        raise InjectionError(
            f"The Pod has limits, but came out of admission without {missing}: Podlane's mutating webhook "
            f"was not reached, or another one took them out. Try again; if it stays so, ask your cluster's "
            f"administrator. {_WITHOUT_LIMITS}"
        )
    _refuse_powerless(pod)
    if changed := ", ".join(_altered(pod, planned)):
        raise InjectionError(
            f"What Podlane injected has been changed: {changed}. Take Podlane's container and volumes out of the "
            "manifest (podlane uninject), so that they are injected again; or keep the webhook that changes them from "
            f"doing so. docs/how-to/injection.md says what may differ. {_WITHOUT_LIMITS}"
        )
    return allowed(planned.warnings)


def _altered(pod: Mapping[str, Any], planned: InjectionPlan) -> Iterator[str]:
    """What of the injected parts is not as planned."""
    for item in pods.listed(pods.spec_of(pod).get(pods.INIT_CONTAINERS)):
        for each in planned.items[pods.INIT_CONTAINERS]:
            if pods.name_of(item) == pods.name_of(each):
                yield from (f"{what[:100]} of container {NAME}" for what in altered(each, item, planned.trusted))
    for item in pods.listed(pods.spec_of(pod).get(pods.VOLUMES)):
        for each in planned.items[pods.VOLUMES]:
            if pods.name_of(item) == pods.name_of(each) and altered_volume(each, item):
                yield f"volume {pods.name_of(each)}"


def _refuse_another_image(before: Mapping[str, Any], pod: Mapping[str, Any], defaults: InjectionDefaults) -> None:
    """The image is the one field of a running Pod's container that can be changed."""
    old, new = _image(before), _image(pod)
    if old != new and repository(new) not in (repository(defaults.image), *defaults.trusted_images):
        raise InjectionError(
            f"The image of container {NAME} can only be one of {repository(defaults.image)}, not {new[:100]}. "
            "Leave it as it was, or create the Pod again."
        )


def _refuse_another_governance(before: Mapping[str, Any], pod: Mapping[str, Any], rules: Rules) -> None:
    """Whoever writes what policies of the cluster say of a Pod, it must be that: the operator does, and is right."""
    if not any(pods.name_of(each) == NAME for each in pods.all_containers(pod)):
        return
    old_status, new_status = (InjectionStatus.from_pod(each) for each in (before, pod))
    if old_status and old_status.governed and not (new_status and new_status.governed):
        raise InjectionError(
            f"By {STATUS} Podlane's operator knows that this Pod follows policies. Leave it as it was."
        )
    old, new = (pods.annotations_of(each).get(EFFECTIVE) for each in (before, pod))
    if old != new and new != governance_of(rules()):
        raise InjectionError(
            f"{EFFECTIVE} is not what policies of the cluster say of this Pod. Podlane's operator writes it: leave it "
            "as it was, and change the TrafficPolicy, or the Pod's other annotations."
        )


def _image(pod: Mapping[str, Any]) -> str:
    found = (c.get("image") for c in pods.all_containers(pod) if pods.name_of(c) == NAME)
    return str(next(found, ""))


def _validate_change(
    request: ReviewRequest, pod: Mapping[str, Any], defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules
) -> dict[str, Any]:
    """For an existing Pod: refuse what its sidecar would only refuse in its log."""
    _refuse_another_image(request.before, pod, defaults)
    _refuse_another_governance(request.before, pod, rules)
    before, after = _limits(request.before), _limits(pod)
    if before == after:
        return allowed()  # a Pod that could be created must remain changeable, for example its finalizers
    if has_sidecar := any(pods.name_of(container) == NAME for container in pods.all_containers(pod)):
        pod = _without_label(pod)  # the sidecar in it does not stop for a label
    # That it runs is decided. What its namespace has as defaults was added when it was created, but not for an agent.
    ceilings = replace(rules(), enforced=False)
    if mode_of(pod, ceilings) is not Mode.AGENT:
        ceilings = replace(ceilings, defaults={})
    planned = plan(pod, defaults, partial(shared, request.namespace), ceilings)
    if isinstance(planned, Skip):
        if planned.unexpected and has_sidecar:
            raise InjectionError(
                "A sidecar holds this Pod to limits, and no annotation would say which any more. Leave "
                f"{EGRESS} there and set it higher, or create the Pod again without it."
            )
        return allowed(_told(planned))
    if lost := " and ".join(planned.annotations):
        raise InjectionError(f"The namespace sets a maximum, so that its Pods need {lost}. Leave that in the Pod.")
    warnings = list(planned.warnings)
    if missing := ", ".join(_lacking(pod, planned.items)):
        warnings.append(f"It runs without {missing}, so these annotations count only in a Pod that is created again.")
    elif late := ", ".join(name for name in _FIXED if before.get(name) != after.get(name)):
        warnings.append(f"Not in force before the Pod is created again: {late}.")
    return allowed(warnings)


def _without_label(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    labels = {name: value for name, value in pods.labels_of(pod).items() if name != INJECT_LABEL}
    return {**pod, "metadata": {**pods.metadata_of(pod), "labels": labels}}


def _lacking(pod: Mapping[str, Any], items: Items) -> Iterator[str]:
    """The parts of the plan that a Pod lacks: the container, volumes, and volumes and capabilities of the container.

    The capability that every plan has is checked by :func:`_refuse_powerless`: without it nothing works.
    """
    volumes = set(pods.names(pod, pods.VOLUMES))
    for key in (pods.INIT_CONTAINERS, pods.VOLUMES):
        what = "volume" if key == pods.VOLUMES else "container"
        there = {pods.name_of(item): item for item in pods.listed(pods.spec_of(pod).get(key))}
        for item in items[key]:
            name = pods.name_of(item)
            if name not in there:
                yield f"{what} {name}"
            elif gone := (_mounted(item) - _mounted(there[name])) & volumes:
                yield from (f"volume {volume} in container {name}" for volume in sorted(gone))
            elif unable := _added(item) - _added(there[name]) - {CAPABILITY}:
                yield from (f"capability {capability} in container {name}" for capability in sorted(unable))


def _mounted(container: Any) -> set[str]:
    return {pods.name_of(mount) for mount in pods.listed(pods.mapping(container).get("volumeMounts"))}


def _added(container: Any) -> set[str]:
    """The relevant capabilities that are added to a container."""
    capabilities = pods.mapping(pods.mapping(pods.mapping(container).get("securityContext")).get("capabilities"))
    written = pods.listed(capabilities.get("add"))
    ours = (CAPABILITY, SOCKET_CAPABILITY)
    return {name for name in ours if any(form in written for form in (name, f"CAP_{name}", "ALL"))}


def _limits(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations about limits."""
    others = (KUBERNETES_EGRESS, KUBERNETES_INGRESS)
    found = pods.annotations_of(pod).items()
    return {k: v for k, v in found if (k.startswith(PREFIX) and k != EFFECTIVE) or k in others}


def _told(skip: Skip) -> tuple[str, ...]:
    return (f"This Pod is not held to limits. {skip.reason}",) if skip.unexpected else skip.warnings


def _refuse_powerless(pod: Mapping[str, Any]) -> None:
    """Raise :class:`InjectionError` if the container lacks a privilege that it needs."""
    if any(pods.name_of(each) == NAME and CAPABILITY not in _added(each) for each in pods.all_containers(pod)):
        raise InjectionError(
            f"Something took the capability {CAPABILITY} from container {NAME}, without which "
            f"no limit can be put in force. Have it allowed in this namespace. {_WITHOUT_LIMITS}"
        )
