"""Plans the injection of a Pod, or finds the reason for leaving it unchanged. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from injector.errors import InjectionError, SharedPolicyError
from injector.pod import containers, isolation, net_raw, pods
from injector.pod.defaults import InjectionDefaults, NetRaw, product_version
from injector.pod.integrity import repository
from injector.pod.list_diff import Items, without_ours
from injector.pod.mesh import PodMesh, mesh_of
from injector.pod.resources import SidecarResources, sidecar_resources
from injector.pod.status import Injected, InjectionStatus
from traffic_policy.cluster.objects import NO_VERDICT
from traffic_policy.errors import Problem
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.annotations import (
    DATAPATH,
    EFFECTIVE,
    ENFORCE_LABEL,
    IMAGE,
    INJECT_LABEL,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    MODE_LABEL,
    OURS,
    PREFIX,
    STATUS,
)
from traffic_policy.pod.effective import AnnotationsError, PodPolicy, shared_policy_name
from traffic_policy.pod.governed import NOTHING, Governance, governed
from traffic_policy.pod.mode import Mode, pod_mode
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.policy import Bound
from traffic_policy.scope import beyond, needs_names
from traffic_policy.settings import Datapath, Mesh, variable

SharedPolicy = Callable[[str], str | None]
"""The text of the policy in a ConfigMap of the Pod's namespace, None if it does not exist; raises SharedPolicyError."""

_ANY_POLICY: Final = "total: 10Tbit"
"""Stands for a shared policy that cannot be read at present, so that the Pod's own annotations are still checked."""
_REFERENCE: Final = "docs/reference/annotations.md has them."

_REMEMBERED: Final = 64
_REMEMBERED_TEXT: Final = 8 * 1024
"""Evaluated annotations that are kept, and the most characters of each: some MiB at most. All Pods of a Deployment have
the same ones, and each Pod is reviewed twice or more; evaluating them is most of the work."""


@dataclass(frozen=True, slots=True)
class InjectionPlan:
    """The additions to a Pod: items for the lists of its spec, the status, and ``annotations`` that its namespace has
    for it. ``warnings`` go to the client that creates it. ``trusted``: further repositories of images that an injected
    container may have. ``governance``: the text of the annotation with what the cluster says of it; None: there is
    none."""

    items: Items
    status: InjectionStatus
    warnings: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    governance: str | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """The Pod is left unchanged. ``unexpected``: the administrator of a labelled namespace should be warned.
    ``harmless``: refusing the Pod would change nothing. ``warnings`` go to the client that creates it."""

    reason: str
    unexpected: bool = True
    harmless: bool = False
    warnings: tuple[str, ...] = ()


_HELD_BY_AGENT: Final = Skip("Its node's agent holds it to its limits.", unexpected=False)


def plan(
    pod: Mapping[str, Any], defaults: InjectionDefaults, shared: SharedPolicy, rules: NamespaceRules = NO_RULES
) -> InjectionPlan | Skip:
    """Decide about a Pod selected for injection, whether or not it was injected before.

    ``rules`` are those of its namespace. Raises :class:`AnnotationsError` for annotations that are invalid, or more
    than the namespace allows, and :class:`InjectionError` for a Pod in which they cannot be honoured.
    """
    missing = rules.missing(pods.annotations_of(pod))
    pod = pods.with_annotations(pod, missing)
    asked = _asks(pod) or _is_governed(pod, rules)
    if (other := _not_by_a_sidecar(pod, rules, shared, asked=asked)) is not None:
        return other
    if (skip := _skip(pod)) is not None:
        return _unless_enforced(skip, rules)
    if not asked:
        return _unless_enforced(Skip(_no_limits(rules)), rules)
    bare = without_ours(pod)
    _refuse_conflicts(bare)
    _refuse_foreign_mounts(bare)
    governance = _governance(pod, rules)
    annotations = {**_texts(pod), **({} if governance is None else {EFFECTIVE: governance})}
    policy, digest, warnings = _policy(annotations, shared)
    added = rules.totals(pods.annotations_of(pod), policy)
    if added and not _has_policy_of_cluster(annotations, rules):
        missing, pod, annotations = {**missing, **added}, pods.with_annotations(pod, added), {**annotations, **added}
        bare = without_ours(pod)
        policy, digest, warnings = _policy(annotations, shared)
    rules.refuse_beyond({**added, **pods.annotations_of(pod)})
    defaults = _with_image(policy, defaults)
    name = shared_policy_name(annotations)
    mesh = mesh_of(bare, policy.mesh or dict(defaults.environment).get(variable("mesh")))
    _refuse_beyond_the_mesh(policy, mesh, defaults)
    _refuse_beyond_the_default_datapath(policy, defaults)
    if defaults.net_raw is NetRaw.REFUSE:
        net_raw.refuse(bare)
    resources = sidecar_resources(bare, defaults, policy.resources)
    items = _items(bare, defaults, policy, resources, name, mesh)
    return InjectionPlan(
        items=items,
        status=_status(pod, bare, items, digest, defaults.revision, governed=rules.verdict is not None),
        warnings=(
            *policy.warnings,
            *warnings,
            *_warnings(bare, defaults, mesh),
            *net_raw.warnings(bare),
            *isolation.warnings(bare),
            *resources.warnings,
        ),
        trusted=defaults.trusted_images,
        annotations=missing,
        governance=governance,
    )


def governance_of(rules: NamespaceRules) -> str | None:
    """What the annotation of the Pod in question is to say; None: policies are not known."""
    return None if rules.verdict is None else Governance.from_verdict(rules.verdict, rules).text()


def mode_of(pod: Mapping[str, Any], rules: NamespaceRules) -> Mode | None:
    """Who is to hold a Pod to its limits; None: nothing says so.

    One that carries a sidecar already, or asks for one by its own label, has one. Raises :class:`AnnotationsError`.
    """
    labels = pods.labels_of(pod)
    if any(pods.name_of(each) == containers.NAME for each in pods.all_containers(pod)):
        return Mode.SIDECAR
    return pod_mode(labels) or (Mode.SIDECAR if labels.get(INJECT_LABEL) == "true" else rules.mode)


def _not_by_a_sidecar(
    pod: Mapping[str, Any], rules: NamespaceRules, shared: SharedPolicy, *, asked: bool
) -> Skip | None:
    """The skip of a Pod that nobody is to hold to its limits, or its node's agent; then they are checked here."""
    mode = mode_of(pod, rules)
    if mode is Mode.NONE:
        return _unless_enforced(Skip(f"Its mode is none ({MODE_LABEL}).", unexpected=False), rules)
    if mode is not Mode.AGENT:
        return None
    if not asked:
        return _unless_enforced(Skip("It has no limits.", unexpected=False), rules)
    if not rules.enforced and not _asks(pod) and KUBERNETES_INGRESS not in pods.annotations_of(pod):
        return _HELD_BY_AGENT  # whoever creates it cannot mend a policy, whose own status says what is wrong with it
    if pods.spec_of(pod).get("hostNetwork") is True:
        raise InjectionError(
            "The Pod uses its node's network, and limits there would hold the whole node. Take its limits away, or set "
            f"its label {MODE_LABEL} to none."
        )
    annotations = _texts(pod)
    name = shared_policy_name(annotations)
    try:
        text = None if name is None else shared(name)
    except SharedPolicyError:
        text = _ANY_POLICY
    verdict = rules.verdict or NO_VERDICT
    policy = effective_for_agent(annotations, rules, shared=text, base=verdict.base, caps=verdict.caps)
    return replace(_HELD_BY_AGENT, warnings=policy.neighbours)


def _unless_enforced(skip: Skip, rules: NamespaceRules) -> Skip:
    """The skip; an error where the namespace demands limits. What mirrors a static Pod runs already."""
    if rules.enforced and not skip.harmless:
        raise InjectionError(
            f"Every Pod of this namespace has to be held to limits (its label {ENFORCE_LABEL}). {skip.reason} Give the "
            "Pod limits, or create it in another namespace."
        )
    return skip


def _asks(pod: Mapping[str, Any]) -> bool:
    """Whether any annotation is about limits; Pods of a labelled namespace need not have any."""
    names = pods.annotations_of(pod)
    return (
        pods.labels_of(pod).get(INJECT_LABEL) == "true"
        or KUBERNETES_EGRESS in names
        or pods.labels_of(pod).get(MODE_LABEL) == Mode.AGENT
        or any(name.startswith(PREFIX) and name not in OURS for name in names if isinstance(name, str))
    )


def _is_governed(pod: Mapping[str, Any], rules: NamespaceRules) -> bool:
    """Whether a policy of the cluster is for a Pod. Those that use their node's network are not meant by them."""
    governed = rules.verdict is not None and rules.verdict.winner is not None
    return governed and pods.spec_of(pod).get("hostNetwork") is not True


def _no_limits(rules: NamespaceRules) -> str:
    annotation = f"no annotation {PREFIX}... says any"
    if rules.verdict is None:
        return f"It has no limits: {annotation}, and TrafficPolicies are not known here. {_REFERENCE}"
    return f"It has no limits: no TrafficPolicy is for it, and {annotation}. {_REFERENCE}"


def _governance(pod: Mapping[str, Any], rules: NamespaceRules) -> str | None:
    """See :class:`InjectionPlan`. What others have written there does not count. Where there is nothing to say nothing
    is written: an injector of version 0.2.0, which may be asked next during an upgrade, does not know this annotation.
    """
    found = governance_of(rules) or NOTHING
    return None if found == NOTHING and EFFECTIVE not in pods.annotations_of(pod) else found


def _has_policy_of_cluster(annotations: Mapping[str, str], rules: NamespaceRules) -> bool:
    """Whether that is beneath what annotations say. It may change, and the caps that the namespace has hold it."""
    governed = rules.verdict is not None and rules.verdict.winner is not None
    return governed and shared_policy_name(annotations) is None


def _skip(pod: Mapping[str, Any]) -> Skip | None:
    label = pods.labels_of(pod).get(INJECT_LABEL)
    if label == "false":
        return Skip(f'Its label {INJECT_LABEL} is "false".', unexpected=False)
    if INJECT_LABEL in pods.labels_of(pod) and label != "true":
        raise AnnotationsError(
            [Problem(INJECT_LABEL, f'{label!r} is not a value of this label. Write "true" or "false", in quotes.')]
        )
    if pods.is_mirror(pod):
        return Skip("It mirrors a static Pod, which only its node's kubelet can change.", harmless=True)
    if pods.spec_of(pod).get("hostNetwork") is True:
        return Skip("It uses its node's network, and limits there would hold the whole node.")
    if pods.is_windows(pod):
        return Skip("It runs on Windows, and Podlane needs Linux.")
    return None


def _refuse_conflicts(bare: Mapping[str, Any]) -> None:
    """Refuse reserved names that were not injected."""
    taken = dict.fromkeys(
        f"{what} {name}"
        for key, what in ((pods.INIT_CONTAINERS, "container"), (pods.CONTAINERS, "container"), (pods.VOLUMES, "volume"))
        for name in pods.names(bare, key)
        if name in (*pods.RESERVED[key], *pods.RESERVED[pods.INIT_CONTAINERS] * (key == pods.CONTAINERS))
    )
    if taken:
        raise InjectionError(
            f"The Pod has a {' and a '.join(taken)} of its own, but no annotation {STATUS}: it was not the injector "
            f'that put it there. Rename or remove it, or set the Pod\'s label {INJECT_LABEL} to "false".'
        )


def _refuse_foreign_mounts(bare: Mapping[str, Any]) -> None:
    """Refuse other containers that could write what the sidecar reads, or talk to it by its files."""
    for container in pods.all_containers(bare):
        mounted = {pods.name_of(mount) for mount in pods.listed(container.get("volumeMounts"))}
        if found := sorted(mounted.intersection(pods.RESERVED[pods.VOLUMES])):
            raise InjectionError(
                f"Container {pods.name_of(container)[:100]} mounts {' and '.join(found)}, which only the sidecar may. "
                "Remove that from its volumeMounts."
            )


def _texts(pod: Mapping[str, Any]) -> dict[str, str]:
    """The Pod's annotations. A manifest may have numbers, though the API accepts only texts."""
    found = {k: v for k, v in pods.annotations_of(pod).items() if isinstance(k, str)}
    problems = [
        Problem(name, f"{value!r} is not a text. Put it in quotes.")
        for name, value in found.items()
        if not isinstance(value, str) and (name.startswith(PREFIX) or name in (KUBERNETES_EGRESS, KUBERNETES_INGRESS))
    ]
    if problems:
        raise AnnotationsError(problems)
    return {k: v for k, v in found.items() if isinstance(v, str)}


def _policy(annotations: Mapping[str, str], shared: SharedPolicy) -> tuple[PodPolicy, str | None, list[str]]:
    """The effective policy, its hash (None: it is incomplete), and warnings."""
    name = shared_policy_name(annotations)
    if name is None:
        return *_evaluated(annotations, None), []
    try:
        text = shared(name)
    except SharedPolicyError as error:
        policy, _ = _evaluated(annotations, _ANY_POLICY)
        return policy, None, [f"ConfigMap {name} was not checked: {error}"]
    return *_evaluated(annotations, text), []


def _evaluated(annotations: Mapping[str, str], shared: str | None) -> tuple[PodPolicy, str]:
    """The effective policy and its hash, as the sidecar will find them."""
    # Foreign annotations and the status of an earlier review mean nothing for the policy.
    relevant = tuple(
        sorted(
            (name, text)
            for name, text in annotations.items()
            if (name.startswith(PREFIX) or name in (KUBERNETES_EGRESS, KUBERNETES_INGRESS)) and name != STATUS
        )
    )
    size = sum(len(name) + len(text) for name, text in relevant) + len(shared or "")
    return (_evaluate if size <= _REMEMBERED_TEXT else _evaluate.__wrapped__)(relevant, shared)


@lru_cache(maxsize=_REMEMBERED)
def _evaluate(annotations: tuple[tuple[str, str], ...], shared: str | None) -> tuple[PodPolicy, str]:
    policy = governed(dict(annotations), shared=shared)
    return policy, policy.digest


def _refuse_beyond_the_mesh(policy: PodPolicy, mesh: PodMesh, defaults: InjectionDefaults) -> None:
    """Refuse to capture inbound connections before the mesh's proxy: the relay would bypass it, and its mutual TLS.

    (The sidecar refuses the same if it alone detects the mesh, or a shared policy could not be read here.)
    """
    if not mesh.redirects or _datapath(policy, defaults) != Datapath.RELAY:
        return
    names = [name for name, match in policy.policy.rules(Bound.INBOUND) if match.needs_content]
    if names:
        raise InjectionError(
            f"Class {names[0]} has inbound matches by sni, host or alpn, and the Pod is in {mesh.title}'s mesh, whose "
            f"proxy must get such connections first. Add the annotation {DATAPATH}: step-aside, or match inbound by "
            "port, cidr and source."
        )


def _datapath(policy: PodPolicy, defaults: InjectionDefaults) -> str:
    return policy.datapath or dict(defaults.environment).get(variable("datapath"), Datapath.RELAY)


def _refuse_beyond_the_default_datapath(policy: PodPolicy, defaults: InjectionDefaults) -> None:
    """Refuse what the injector's default datapath cannot do; one chosen by annotation has been checked with these."""
    if policy.datapath is None:
        problems = [Problem(DATAPATH, str(each)) for each in beyond(policy.policy, _datapath(policy, defaults))]
        if problems:
            raise AnnotationsError(problems)


def _with_image(policy: PodPolicy, defaults: InjectionDefaults) -> InjectionDefaults:
    """The defaults with the image that the Pod chooses. Raises :class:`AnnotationsError` unless that is of a repository
    from which Pods may choose: whoever decides what runs in the container decides whether there are limits."""
    if policy.image is None:
        return defaults
    if (wanted := repository(policy.image)) not in defaults.trusted_images:
        choice = f"Choose one of {', '.join(defaults.trusted_images)}, leave" if defaults.trusted_images else "Leave"
        raise AnnotationsError(
            [
                Problem(
                    IMAGE,
                    f"Pods may not choose images of {wanted}. {choice} the annotation out, or have your cluster's "
                    "administrator add the repository to the injector's trusted_images (sidecar.trustedImages).",
                )
            ]
        )
    return replace(defaults, image=policy.image)


def _items(
    pod: Mapping[str, Any],
    defaults: InjectionDefaults,
    policy: PodPolicy,
    resources: SidecarResources,
    shared: str | None,
    mesh: PodMesh,
) -> Items:
    drain = containers.drain_seconds(pods.termination_grace(pod))
    datapath = _datapath(policy, defaults)
    relays = datapath == Datapath.RELAY
    programs = containers.PROGRAM_CAPABILITIES if defaults.bpf and datapath == Datapath.EBPF else ()
    sockets = [containers.SOCKET_CAPABILITY] if defaults.bpf and relays and needs_names(policy.policy) else []
    # Also for a policy without names: it may gain some while the Pod runs.
    group = [containers.GROUP_CAPABILITY] if relays and not mesh.group else []
    capabilities = (containers.CAPABILITY, *sockets, *programs, *group, *(mesh.capabilities if relays else ()))
    identity = containers.SidecarIdentity(capabilities, mesh.group, mesh.setting)
    wanted = set(defaults.image_pull_secrets) - set(pods.names(pod, pods.PULL_SECRETS))
    return {
        pods.INIT_CONTAINERS: (containers.sidecar(defaults, resources.fields, drain, shared, identity),),
        pods.VOLUMES: tuple(containers.volumes(shared)),
        pods.PULL_SECRETS: tuple({"name": name} for name in defaults.image_pull_secrets if name in wanted),
    }


def _status(
    pod: Mapping[str, Any], bare: Mapping[str, Any], items: Items, policy: str | None, revision: str, *, governed: bool
) -> InjectionStatus:
    carried = InjectionStatus.from_pod(pod)
    # A list that the injection created counts as created, even if others have added items since.
    lacking = [key for key in items if not isinstance(pods.spec_of(bare).get(key), list)]
    created = {*lacking, *(carried.created if carried else ())}
    return InjectionStatus(
        version=product_version(),
        policy=policy,
        spec=hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:16],
        injected=Injected(**{key: tuple(pods.name_of(item) for item in group) for key, group in items.items()}),
        created=tuple(key for key, group in items.items() if group and key in created),
        revision=revision,
        governed=governed,
    )


def _warnings(pod: Mapping[str, Any], defaults: InjectionDefaults, mesh: PodMesh) -> Iterator[str]:
    if mesh.title == "Linkerd":
        yield (
            "Beside Linkerd Podlane has been tried with a stand-in for its proxy only; docs/how-to/mesh.md says how "
            "far."
        )
    elif not mesh.title and (other := pods.other_mesh(pod)) is not None and mesh.setting != Mesh.NONE:
        yield f"Podlane has not been tried in a Pod with {other}, which redirects connections, too."
    taken = defaults.ports
    for own in mesh.ports:
        if own in taken:
            yield f"{mesh.title}'s proxy listens on port {own}, and so does Podlane. Give one of them another."
    for container in pods.all_containers(pod):
        for port in (pods.mapping(p).get("containerPort") for p in pods.listed(container.get("ports"))):
            if port in taken:
                yield f"Container {pods.name_of(container)} uses port {port}, on which Podlane listens in the Pod."
