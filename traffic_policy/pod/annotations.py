"""The annotations and labels that Podlane knows, and what each is for.

``docs/reference/annotations.md`` has the same table.

Labels select (:data:`INJECT_LABEL`), annotations configure. What they mean together is
:mod:`traffic_policy.pod.effective`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PREFIX: Final = "podlane.io/"

INJECT_LABEL: Final = f"{PREFIX}inject"
"""On a namespace ``enabled``; on a Pod ``"true"`` or ``"false"``, which wins over the namespace."""
STATUS: Final = f"{PREFIX}status"
"""Written by the injector: JSON with the version, the hash of the effective policy, and what was injected."""

EGRESS: Final = f"{PREFIX}egress-bandwidth"
INGRESS: Final = f"{PREFIX}ingress-bandwidth"
CLASSES: Final = f"{PREFIX}classes"
DEFAULT_CLASS: Final = f"{PREFIX}default-class"
POLICY: Final = f"{PREFIX}policy"
EXCLUDE_PORTS: Final = f"{PREFIX}exclude-outbound-ports"
EXCLUDE_CIDRS: Final = f"{PREFIX}exclude-outbound-cidrs"
EXCLUDE_INBOUND_PORTS: Final = f"{PREFIX}exclude-inbound-ports"
EXCLUDE_INBOUND_CIDRS: Final = f"{PREFIX}exclude-inbound-cidrs"
ON_FAILURE: Final = f"{PREFIX}on-failure"
DETECTION_TIMEOUT: Final = f"{PREFIX}detection-timeout"
DATAPATH: Final = f"{PREFIX}datapath"
MESH: Final = f"{PREFIX}mesh"
LOG_LEVEL: Final = f"{PREFIX}log-level"
CPU_REQUEST: Final = f"{PREFIX}cpu-request"
CPU_LIMIT: Final = f"{PREFIX}cpu-limit"
MEMORY_REQUEST: Final = f"{PREFIX}memory-request"
MEMORY_LIMIT: Final = f"{PREFIX}memory-limit"

KUBERNETES_EGRESS: Final = "kubernetes.io/egress-bandwidth"
"""What bandwidth plugins read, and this project where its own annotation is missing (bit/s)."""
KUBERNETES_INGRESS: Final = "kubernetes.io/ingress-bandwidth"

SHARED_POLICY_KEY: Final = "policy.yaml"
"""The key of a ConfigMap under which a shared policy is found."""


def shared_policy_file(name: str) -> str:
    """Where the policy of the ConfigMap ``name`` is in the sidecar's folder of shared policies.

    The path tells which ConfigMap a file is of: the annotation of a Pod that runs may name another by now, but its
    volume stays as it was made. A folder and not a longer file name, since a ConfigMap's name may have 253 characters.
    """
    return f"{name}/{SHARED_POLICY_KEY}"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation as the reference has it. ``name`` is the full name, ``example`` a value that can be used."""

    name: str
    unit: str
    default: str
    example: str
    meaning: str


ANNOTATIONS: Final[tuple[Annotation, ...]] = (
    Annotation(
        EGRESS,
        "bit/s, a Kubernetes quantity",
        KUBERNETES_EGRESS + ", else the shared policy's total",
        "100M",
        "What the Pod may send in all; the classes share it.",
    ),
    Annotation(
        INGRESS,
        "bit/s, a Kubernetes quantity",
        KUBERNETES_INGRESS + ", else the shared policy's ingress, else no limit",
        "100M",
        "What the Pod may receive in all: ingress.total of a policy. Classes may have an ingress of their own.",
    ),
    Annotation(
        CLASSES,
        "YAML or JSON: a list as under classes in a policy",
        "the shared policy's classes",
        '[{name: api, rate: 20Mbit, match: {sni: "*.example.com"}}]',
        "The Pod's classes. They come before the shared policy's classes, and replace those of the same name.",
    ),
    Annotation(
        DEFAULT_CLASS,
        "YAML or JSON: a mapping as under default in a policy",
        "the shared policy's default",
        "{rate: 1Mbit, ceil: 50Mbit, priority: 7}",
        "Limits of everything that is in no class.",
    ),
    Annotation(
        POLICY,
        "name of a ConfigMap in the Pod's namespace",
        "none",
        "shared-lanes",
        f"A policy that Pods share, under the key {SHARED_POLICY_KEY}. The Pod's other annotations win over it.",
    ),
    Annotation(
        EXCLUDE_PORTS,
        "ports and ranges, with commas",
        "the sidecar's (none)",
        "25,9000-9100",
        "Traffic to these ports (TCP and UDP) is left alone: not captured, in the default class.",
    ),
    Annotation(
        EXCLUDE_CIDRS,
        "networks, with commas",
        "the sidecar's (none)",
        "10.96.0.0/12,fd00::/8",
        "Traffic to these networks is left alone: not captured, in the default class.",
    ),
    Annotation(
        EXCLUDE_INBOUND_PORTS,
        "ports and ranges, with commas",
        "the sidecar's (none)",
        "9090",
        "What clients open to these ports of the Pod is left alone: not captured, answers in the default class.",
    ),
    Annotation(
        EXCLUDE_INBOUND_CIDRS,
        "networks, with commas",
        "the sidecar's (none)",
        "192.0.2.0/24",
        "What clients in these networks open is left alone: not captured, answers in the default class.",
    ),
    Annotation(
        ON_FAILURE,
        "open or closed",
        "the sidecar's (open)",
        "closed",
        "While the proxy is gone, new connections that it would capture go direct, or are refused.",
    ),
    Annotation(
        DETECTION_TIMEOUT,
        "time: us, ms, s, m or h",
        "the sidecar's (1s)",
        "500ms",
        "How long a connection may keep silent before the port decides its class.",
    ),
    Annotation(
        DATAPATH,
        "relay or step-aside",
        "the sidecar's (relay)",
        "step-aside",
        "How a connection's first bytes are seen.",
    ),
    Annotation(
        MESH,
        "auto, istio, linkerd or none",
        "the sidecar's (auto)",
        "istio",
        "The service mesh behind whose proxy Podlane sits (docs/how-to/mesh.md). auto: the one that is in the Pod.",
    ),
    Annotation(
        LOG_LEVEL,
        "debug, info, warning or error",
        "the sidecar's (info)",
        "debug",
        "From which severity on the sidecar logs.",
    ),
    Annotation(
        CPU_REQUEST, "CPUs, a Kubernetes quantity", "the injector's", "20m", "CPU that is kept free for the sidecar."
    ),
    Annotation(
        CPU_LIMIT, "CPUs, a Kubernetes quantity", "the injector's", "1", "The most CPU that the sidecar may use."
    ),
    Annotation(
        MEMORY_REQUEST,
        "bytes, a Kubernetes quantity",
        "the injector's",
        "80Mi",
        "Memory that is kept free for the sidecar.",
    ),
    Annotation(
        MEMORY_LIMIT,
        "bytes, a Kubernetes quantity",
        "the injector's",
        "256Mi",
        "The most memory that the sidecar may use; beyond it the proxy, or all of the container, is killed and "
        "restarted.",
    ),
)
"""In the order of the reference."""
