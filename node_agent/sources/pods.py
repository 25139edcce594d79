"""Which Pods of the API server are the agent's, and what each of them is to have. Pure.

A Pod that is being deleted counts as long as it has processes: its limits must not end with the first signal to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node_agent.provenance import PodSources
from node_agent.workload import NodeWorkload, PodClaim, PolicyReference, lanes_of_annotations
from traffic_policy.cluster.objects import NO_POLICIES, NO_VERDICT, ClusterPolicies, PodLabels, PolicyVerdict
from traffic_policy.pod.annotations import (
    ENFORCE_LABEL,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    MODE_LABEL,
    OURS,
    POLICY,
    PREFIX,
)
from traffic_policy.pod.effective import AnnotationsError, has_limits, shared_policy_name
from traffic_policy.pod.mode import Mode, namespace_mode, pod_mode
from traffic_policy.pod.namespace import NamespaceRules
from traffic_policy.selection import labels_of_pod
from traffic_policy.settings import Mesh

SIDECAR: Final = "podlane"
"""The name of an injected container."""
_ENDED: Final = ("Succeeded", "Failed")
"""Phases without processes (k8s.io/api/core/v1, PodPhase)."""
_MIRROR: Final = "kubernetes.io/config.mirror"
"""On the API server's copy of a static Pod: the UID that its kubelet gave it (k8s.io/api/core/v1,
MirrorPodAnnotationKey)."""
_MESHES: Final = {
    "istio-init": Mesh.ISTIO,
    "istio-validation": Mesh.ISTIO,
    "linkerd-init": Mesh.LINKERD,
    "linkerd-network-validator": Mesh.LINKERD,
}
"""By the init container that writes the mesh's rules, or waits for them; where its proxy intercepts nothing there is
none."""
_AMBIENT: Final = "ambient.istio.io/redirection"
"""By which Istio's CNI agent says of a Pod that it has written its rules there (istio.io/api/annotation)."""
_TEMPLATES: Final = {"rollouts-pod-template-hash": "Rollout", "pod-template-hash": "Deployment"}
"""Labels that Pods have by what made their ReplicaSet (k8s.io/api/apps/v1, DefaultDeploymentUniqueLabelKey)."""
_HOST_NETWORK: Final = (
    "The Pod uses its node's network (hostNetwork: true), and limits there would hold the whole node. Take its limits "
    f"away, or set its label {MODE_LABEL}: none."
)


@dataclass(frozen=True, slots=True)
class AskedPod:
    """A Pod that asks the agent for limits, or whose namespace does.

    ``annotations`` are its own that matter, and the defaults of its namespace. ``refusal``: why it cannot have any.
    ``kubelet_uid`` is the UID by which its node's kubelet knows it. ``own_network``: it has a network namespace.
    ``mesh``: the service mesh that intercepts its connections. ``claim``: a control plane may have a policy for it,
    since it has none. ``verdict``: which of the cluster's policies it has.
    """

    name: str
    namespace: str
    uid: str
    kubelet_uid: str
    annotations: Mapping[str, str]
    rules: NamespaceRules
    refusal: str = ""
    own_network: bool = True
    mesh: Mesh = Mesh.NONE
    claim: PodClaim | None = None
    verdict: PolicyVerdict = NO_VERDICT
    own: Mapping[str, str] = field(default_factory=dict)
    """Of ``annotations`` those that are not of its namespace."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """By which a control plane's policies select it."""
    controller: str = ""
    """KIND/NAME of what runs it."""

    @property
    def shared_policy(self) -> str | None:
        """The ConfigMap that it names."""
        return None if self.refusal else shared_policy_name(self.annotations)

    def workload(self, shared: str | None, failure: str = "") -> NodeWorkload:
        """What it is to have; where its network namespace is, is not known here.

        ``shared`` is the text in the ConfigMap that it names, ``failure`` says why that cannot be read.
        """
        refusal = self.refusal or failure
        lanes = None
        if not refusal:
            try:
                lanes = lanes_of_annotations(
                    self.annotations, self.rules, shared=shared, verdict=self.verdict, mesh=self.mesh
                )
            except AnnotationsError as error:
                refusal = str(error)
        labels = {"namespace": self.namespace, "pod": self.name}
        name, policy = f"{self.namespace}/{self.name}", self._policy
        sources = PodSources(self.own, self.rules, shared, self.verdict, self.labels)
        return NodeWorkload(
            name,
            None,
            lanes,
            refusal,
            labels,
            self.uid,
            self.claim,
            policy=policy,
            sources=sources,
            controller=self.controller,
        )

    @property
    def _policy(self) -> PolicyReference | None:
        """The cluster's policy that counts, unless annotations name another as a whole."""
        won = self.verdict.winner
        if won is None or POLICY in self.annotations:
            return None
        return PolicyReference(won.kind, won.namespace, won.name, won.uid, won.generation)


def needed(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`asked` reads of a Pod: some hundred bytes of ten thousand, and seldom changed."""
    about, spec = _mapping(pod.get("metadata")), _mapping(pod.get("spec"))
    kept = {key: about.get(key) for key in ("name", "namespace", "uid", "labels")}
    if owner := _controller(about):
        kept["ownerReferences"] = [{key: owner.get(key) for key in ("kind", "name", "controller")}]
    annotations = {
        **_limits(about),
        **_named(about.get("annotations"), _MIRROR),
        **_named(about.get("annotations"), _AMBIENT),
    }
    containers = {
        key: [{"name": _mapping(each).get("name")} for each in spec.get(key) or ()]
        for key in ("initContainers", "containers")
    }
    return {
        "metadata": {**kept, "annotations": annotations},
        "spec": {**containers, **_named(spec, "hostNetwork")},
        "status": _named(pod.get("status"), "phase"),
    }


def _named(found: object, key: str) -> dict[str, Any]:
    return {name: value for name, value in _mapping(found).items() if name == key}


def kubelet_uid(pod: Mapping[str, Any]) -> str:
    """The UID by which its node's kubelet knows a Pod."""
    about = _mapping(pod.get("metadata"))
    return str(_mapping(about.get("annotations")).get(_MIRROR, about.get("uid", "")))


def asked(
    pod: Mapping[str, Any],
    namespace: Mapping[str, Any],
    default: Mode,
    *,
    policies: ClusterPolicies = NO_POLICIES,
    fleet: bool = False,
) -> AskedPod | None:
    """What a Pod in a Namespace, both as the API server has them, asks the agent for; None: nothing.

    ``default`` is the mode where neither says one. ``policies`` are the cluster's. ``fleet``: a control plane may have
    policies for Pods that say nothing about limits, and that none of these is for.
    """
    if _mapping(pod.get("status")).get("phase") in _ENDED or _has_sidecar(pod):
        return None
    about, above = _mapping(pod.get("metadata")), _mapping(namespace.get("metadata"))
    labels, own, rules = _mapping(about.get("labels")), _limits(about), NamespaceRules()
    refusals: list[str] = []
    try:
        mode = _mode(labels, _mapping(above.get("labels"))) or default
    except AnnotationsError as error:
        refusals.append(str(error))
        mode = Mode.AGENT
    if mode is not Mode.AGENT:
        return None
    try:
        rules = NamespaceRules.from_annotations(_mapping(above.get("annotations")))
    except AnnotationsError as error:
        refusals.append(str(error))
    annotations = {**rules.missing(own), **own}
    own_network = _mapping(pod.get("spec")).get("hostNetwork") is not True
    where = str(about.get("namespace", ""))
    verdict = policies.verdict(PodLabels(where, _mapping(above.get("labels")), labels))
    # A policy for many Pods does not mean those among them that use their node's network.
    says_nothing = not annotations and MODE_LABEL not in labels and (verdict.winner is None or not own_network)
    if says_nothing and not (fleet and own_network):
        return None
    if not own_network:
        refusals.append(_HOST_NETWORK)
    name, uid = (str(about.get(key, "")) for key in ("name", "uid"))
    mesh, claim, selecting = _mesh(pod), None, labels_of_pod(where, labels)
    if fleet and not refusals and not has_limits(annotations) and verdict.winner is None:
        claim = PodClaim(selecting, annotations, rules, mesh, optional=says_nothing, caps=verdict.caps)
    refusal = next(iter(refusals), "")
    return AskedPod(
        name,
        where,
        uid,
        kubelet_uid(pod),
        annotations,
        rules,
        refusal,
        own_network,
        mesh,
        claim,
        verdict,
        own,
        selecting,
        _running(about),
    )


def _mode(labels: Mapping[str, Any], above: Mapping[str, Any]) -> Mode | None:
    """A Pod's own label wins, but not in a namespace that has the agent hold all."""
    if above.get(ENFORCE_LABEL) == "true" and namespace_mode(above) is Mode.AGENT:
        return Mode.AGENT
    return pod_mode(labels) or namespace_mode(above)


def _limits(about: Mapping[str, Any]) -> dict[str, str]:
    """The annotations about limits."""
    return {
        name: text
        for name, text in _mapping(about.get("annotations")).items()
        if (name.startswith(PREFIX) or name in (KUBERNETES_EGRESS, KUBERNETES_INGRESS)) and name not in OURS
    }


def _controller(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """The reference to what runs a Pod (k8s.io/apimachinery, metav1.GetControllerOf); empty: nothing does."""
    owners = map(_mapping, about.get("ownerReferences") or ())
    return next((owner for owner in owners if owner.get("controller") is True), {})


def _running(about: Mapping[str, Any]) -> str:
    """KIND/NAME of what runs a Pod. A ReplicaSet is a step between: its name is a Deployment's, or an Argo Rollout's,
    and the hash of the Pods' template, which is their label."""
    owner, labels = _controller(about), _mapping(about.get("labels"))
    kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
    if kind == "ReplicaSet":
        for label, above in _TEMPLATES.items():
            if (hash := str(labels.get(label, ""))) and name.endswith(f"-{hash}"):
                return f"{above}/{name.removesuffix(f'-{hash}')}"
    return f"{kind}/{name}" if name else ""


def _mesh(pod: Mapping[str, Any]) -> Mesh:
    containers = _mapping(pod.get("spec")).get("initContainers") or ()
    found = (_MESHES.get(str(_mapping(each).get("name"))) for each in containers)
    if (mesh := next(filter(None, found), None)) is not None:
        return mesh
    annotations = _mapping(_mapping(pod.get("metadata")).get("annotations"))
    return Mesh.AUTO if annotations.get(_AMBIENT) == "enabled" else Mesh.NONE


def _has_sidecar(pod: Mapping[str, Any]) -> bool:
    """By the container; an annotation alone may be a copy of another Pod's."""
    spec = _mapping(pod.get("spec"))
    containers = (each for key in ("initContainers", "containers") for each in spec.get(key) or ())
    return any(_mapping(each).get("name") == SIDECAR for each in containers)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
