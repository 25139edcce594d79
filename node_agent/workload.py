"""What is wanted for one workload. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from datapath.data_plane_settings import DataPlaneSettings
from datapath.mesh.types import MeshProxy
from datapath.netfilter.capture_settings import CaptureSettings
from node_agent.provenance import PodSources
from traffic_policy.cluster.caps import CapsOf
from traffic_policy.cluster.objects import NO_VERDICT, PolicyVerdict
from traffic_policy.errors import PolicyError, Problem
from traffic_policy.mesh.owned import takes_marks
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.annotations import POLICY
from traffic_policy.pod.composition import BasePolicy
from traffic_policy.pod.effective import AnnotationsError, PodPolicy
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.policy import Network, PortRange, TrafficPolicy
from traffic_policy.policy_file import policy_from_document
from traffic_policy.scope import beyond_agent
from traffic_policy.settings import Datapath, Mesh, OnFailure
from traffic_policy.units import Duration

_READ_EVERY: Final = Duration.from_seconds(600)
"""Of each of hundreds of workloads."""
_ASK_EVERY: Final = Duration.from_seconds(10)
DETECTION_TIMEOUT: Final = Duration.from_seconds(1)


@dataclass(frozen=True, slots=True)
class WantedLanes:
    """What is to be in force in one network namespace.

    ``interface`` None: that of the default route. ``on_failure`` is about new connections while there is no agent, or
    too many at once: in the class of their port (open), or they wait (closed). ``mesh`` is the service mesh whose proxy
    is there, ``auto`` the one whose rules are. ``datapath``: step-aside or ebpf, where this workload asks for one of
    them. ``digest`` is the SHA-256 of all of it, in hexadecimal.
    """

    policy: TrafficPolicy
    digest: str
    interface: str | None = None
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_cidrs: tuple[Network, ...] = ()
    exclude_inbound_ports: tuple[PortRange, ...] = ()
    exclude_inbound_cidrs: tuple[Network, ...] = ()
    detection_timeout: Duration = DETECTION_TIMEOUT
    on_failure: OnFailure = OnFailure.OPEN
    mesh: Mesh = Mesh.NONE
    datapath: Datapath | None = None
    warnings: tuple[str, ...] = ()
    clamps: tuple[str, ...] = ()
    """What caps have lowered, in sentences, which are among ``warnings``."""
    neighbours: tuple[str, ...] = ()
    """Annotations by which others may hold it, too, in sentences, which are among ``warnings``."""
    mesh_marks: bool = False
    """Whether the mesh's own proxy marks its connections by the policy's classes (``spec.mesh`` of a TrafficPolicy)."""

    def starts_like(self, other: WantedLanes) -> bool:
        """Whether they have the same of what is read only when lanes begin."""
        mine, theirs = ((each.detection_timeout, each.on_failure, each.mesh) for each in (self, other))
        return mine == theirs

    def settings(self, mesh: MeshProxy | None, datapath: Datapath) -> DataPlaneSettings:
        """The data plane's settings, with the mesh's proxy that was found there and the datapath that was chosen."""
        return DataPlaneSettings(
            CaptureSettings(
                datapath=datapath,
                exclude_outbound_ports=self.exclude_outbound_ports,
                exclude_outbound_cidrs=self.exclude_outbound_cidrs,
                exclude_inbound_ports=self.exclude_inbound_ports,
                exclude_inbound_cidrs=self.exclude_inbound_cidrs,
                queue_bypass=self.on_failure is OnFailure.OPEN,
                mesh=mesh,
                mesh_marks=self.mesh_marks,
            ),
            self.on_failure,
            read_every=_READ_EVERY,
            ask_every=_ASK_EVERY,
        )


class FleetClaim(Protocol):
    """What a workload without a policy of its own says: a control plane may have one for it."""

    @property
    def labels(self) -> Mapping[str, str]:
        """By which it is selected."""

    @property
    def optional(self) -> bool:
        """Whether it is none of the agent's workloads unless there is a policy for it."""

    @property
    def settings_key(self) -> Hashable:
        """Equal for claims for which :meth:`lanes` gives the same."""

    def lanes(self, document: Mapping[str, Any]) -> WantedLanes:
        """What a policy means for it. Raises :class:`PodlaneError` if the agent cannot put that in force."""


@dataclass(frozen=True, slots=True)
class PodClaim:
    """That of a Pod, whose annotations say nothing about limits but may say how they are to be kept."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    rules: NamespaceRules = NO_RULES
    mesh: Mesh = Mesh.NONE
    optional: bool = True
    caps: tuple[CapsOf, ...] = ()

    @property
    def settings_key(self) -> Hashable:
        rules = (self.rules.most_sent, self.rules.most_received)
        return (*sorted(self.annotations.items()), rules, self.mesh, self.caps)

    def lanes(self, document: Mapping[str, Any]) -> WantedLanes:
        try:
            return _lanes_of_pod(
                effective_for_agent(self.annotations, self.rules, base=BasePolicy(document), caps=self.caps), self.mesh
            )
        except AnnotationsError as error:
            # There is no annotation in which a policy of the control plane could be mended.
            told = (each.message if each.path == POLICY else str(each) for each in error.problems)
            raise PolicyError([Problem("", text) for text in told]) from None


@dataclass(frozen=True, slots=True)
class EntryClaim:
    """That of an entry of a file of workloads."""

    labels: Mapping[str, str]
    interface: str | None = None
    on_failure: OnFailure = OnFailure.OPEN
    mesh: Mesh = Mesh.NONE
    datapath: Datapath | None = None
    optional: bool = True

    @property
    def settings_key(self) -> Hashable:
        return (self.interface, self.on_failure, self.mesh, self.datapath)

    def lanes(self, document: Mapping[str, Any]) -> WantedLanes:
        policy = policy_from_document(document)
        return lanes_of_policy(policy, self.interface, self.on_failure, mesh=self.mesh, datapath=self.datapath)


@dataclass(frozen=True, slots=True)
class PolicyReference:
    """A TrafficPolicy or ClusterTrafficPolicy, as it was when it was read. ``namespace`` is empty for one of the
    cluster."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}, generation {self.generation}"


@dataclass(frozen=True, slots=True)
class NodeWorkload:
    """Something with a network namespace of its own: a Pod, or an entry of a file.

    ``name`` is unique on the node: NAMESPACE/POD, or the entry's name. ``network_namespace`` is a path; None: not known
    yet. ``lanes`` None: its policy cannot be honoured, and ``refusal`` says why.
    """

    name: str
    network_namespace: Path | None
    lanes: WantedLanes | None
    refusal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Values of the metrics' labels ``namespace`` and ``pod``."""
    uid: str = ""
    """Of the Pod."""
    claim: FleetClaim | None = None
    """None: it has a policy of its own, or no control plane is asked."""
    fleet_policy: str = ""
    """The control plane's policy that it has; empty: none."""
    policy: PolicyReference | None = None
    """The cluster's policy that it has; None: none."""
    sources: PodSources | None = field(default=None, compare=False, repr=False)
    """What its policy is made of, to be told to who asks; None: it is no Pod. What they mean is in ``lanes``."""
    controller: str = ""
    """KIND/NAME of what runs the Pod, as Deployment/web; empty: nothing does."""
    policy_file: str = ""
    """Which file has its policy; empty: none."""

    @property
    def governed_by(self) -> str:
        """Whose policy it has, in words that are the same for all that have this one: they share its budget."""
        if self.policy is not None:
            where = f"{self.policy.namespace}/" if self.policy.namespace else ""
            return f"{self.policy.kind} {where}{self.policy.name}"
        if self.fleet_policy:
            return f"the control plane's policy {self.fleet_policy}"
        return f"file {self.policy_file}" if self.policy_file else f"workload {self.name}"


def lanes_of_policy(
    policy: TrafficPolicy,
    interface: str | None = None,
    on_failure: OnFailure = OnFailure.OPEN,
    *,
    mesh: Mesh = Mesh.NONE,
    datapath: Datapath | None = None,
    source: str = "",
) -> WantedLanes:
    """WantedLanes by a policy alone. Raises :class:`PolicyError` if the agent cannot put it in force."""
    if problems := beyond_agent(policy):
        raise PolicyError(problems, source)
    meaning = json.dumps([policy.to_document(), interface, on_failure.value, mesh.value, datapath], sort_keys=True)
    digest = hashlib.sha256(meaning.encode()).hexdigest()
    return WantedLanes(policy, digest, interface, on_failure=on_failure, mesh=mesh, datapath=datapath)


def lanes_of_annotations(
    annotations: Mapping[str, str],
    rules: NamespaceRules = NO_RULES,
    *,
    shared: str | None = None,
    verdict: PolicyVerdict = NO_VERDICT,
    mesh: Mesh = Mesh.NONE,
) -> WantedLanes:
    """WantedLanes by a Pod's annotations, the text of the shared policy that they name, what its namespace allows, and
    the ``verdict`` about the cluster's policies.

    ``mesh`` is the one in the Pod, unless an annotation says it.

    Raises :class:`~traffic_policy.pod.effective.AnnotationsError`.
    """
    pod = effective_for_agent(annotations, rules, shared=shared, base=verdict.base, caps=verdict.caps)
    return _lanes_of_pod(pod, mesh, mesh_marks=takes_marks(verdict, pod.policy))


def _lanes_of_pod(pod: PodPolicy, mesh: Mesh, *, mesh_marks: bool = False) -> WantedLanes:
    return WantedLanes(
        pod.policy,
        hashlib.sha256(f"{pod.digest} mesh marks".encode()).hexdigest() if mesh_marks else pod.digest,
        None,
        pod.exclude_outbound_ports,
        pod.exclude_outbound_cidrs,
        pod.exclude_inbound_ports,
        pod.exclude_inbound_cidrs,
        pod.detection_timeout or DETECTION_TIMEOUT,
        OnFailure(pod.on_failure or OnFailure.OPEN),
        mesh if pod.mesh in (None, Mesh.AUTO) else Mesh(pod.mesh),
        Datapath(pod.datapath) if pod.datapath in (Datapath.EBPF, Datapath.STEP_ASIDE) else None,
        (*pod.warnings, *_without_effect(pod)),
        tuple(map(str, pod.clamps)),
        pod.neighbours,
        mesh_marks,
    )


def _without_effect(pod: PodPolicy) -> tuple[str, ...]:
    """Annotations that only a sidecar can honour."""
    if pod.datapath != Datapath.RELAY:
        return ()
    return ("podlane.io/datapath: relay has no effect here: the node agent relays nothing.",)
