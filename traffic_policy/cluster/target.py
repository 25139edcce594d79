"""What a policy of a cluster says beside the policy grammar: for which Pods it is, and what nobody may exceed. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from traffic_policy.cluster.label_selector import LabelSelector
from traffic_policy.fields import PriorityField, RateField

MOST_PRECEDENCE: Final = 1000
Precedence = Annotated[int, Field(ge=0, le=MOST_PRECEDENCE, strict=True)]


class PolicyCaps(BaseModel):
    """The most that Pods may have, whoever says it. What is more is lowered to it, and told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total: RateField | None = Field(None, description="The greatest total that a Pod may send.")
    ingress: RateField | None = Field(
        None, description="The greatest total that a Pod may receive; one that has no such limit gets this."
    )
    ceil: RateField | None = Field(None, description="The greatest ceil of a class, the default class included.")
    priority: PriorityField | None = Field(
        None, description="The most urgent priority that a class may have: 0 allows all, 3 makes 0, 1 and 2 a 3."
    )


class MeshConfiguration(StrEnum):
    """By what kind of object a mesh's own proxy learns of a policy's names."""

    ENVOY_FILTER = "envoyfilter"


_MESH: Final = (
    "Objects that the operator makes of the policy, for a service mesh whose own proxy then marks what it sends by the "
    "policy's names. envoyfilter: an EnvoyFilter of Istio, where Envoy may set marks. Left out: none, and names are "
    "read from what the mesh's proxy sends."
)


class PolicyTarget(BaseModel):
    """For which Pods of its namespace a TrafficPolicy is."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    pod_selector: LabelSelector = Field(
        default_factory=LabelSelector,
        alias="podSelector",
        description="Labels of the Pods that have this policy; all Pods of the namespace when left out.",
    )
    priority: Precedence = Field(
        0,
        description="Of several TrafficPolicies for one Pod that with the greatest priority counts, then that whose "
        "selector has more conditions, then the older one.",
    )
    mesh: MeshConfiguration | None = Field(None, description=_MESH)


class ClusterPolicyTarget(BaseModel):
    """For which Pods of the cluster a ClusterTrafficPolicy is, and what it caps."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    namespace_selector: LabelSelector = Field(
        default_factory=LabelSelector,
        alias="namespaceSelector",
        description="Labels of the namespaces whose Pods are meant; all namespaces when left out. Each namespace has "
        "the label kubernetes.io/metadata.name with its name.",
    )
    pod_selector: LabelSelector = Field(
        default_factory=LabelSelector,
        alias="podSelector",
        description="Labels of the Pods that are meant; all Pods of these namespaces when left out.",
    )
    priority: Precedence = Field(
        0,
        description="Of several ClusterTrafficPolicies for one Pod that with the greatest priority counts, then that "
        "whose selectors have more conditions, then the older one. Caps count all, the lowest first.",
    )
    caps: PolicyCaps | None = Field(
        None,
        description="The most that these Pods may have, whoever says it: this policy, a TrafficPolicy, annotations. "
        "They are for Pods that have a policy.",
    )
    mesh: MeshConfiguration | None = Field(None, description=_MESH)
