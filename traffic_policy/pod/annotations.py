"""The names of the annotations and labels that Podlane knows. ``docs/reference/annotations.md`` is their reference.

Labels select (:data:`INJECT_LABEL`, :data:`MODE_LABEL`), annotations configure. What they mean together is
:mod:`traffic_policy.pod.effective`.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "podlane.io/"

INJECT_LABEL: Final = f"{PREFIX}inject"
"""On a namespace ``enabled``; on a Pod ``"true"`` or ``"false"``, which wins over the namespace."""
REVISION_LABEL: Final = f"{PREFIX}rev"
"""On a namespace, or a Pod that opts in itself: by which revision of the injector."""
STATUS: Final = f"{PREFIX}status"
"""Written by the injector: JSON with the version, the hash of the effective policy, and what was injected."""
EFFECTIVE: Final = f"{PREFIX}effective-policy"
"""Written by the injector, and kept current by the operator: JSON with the policy of the cluster that a Pod with a
sidecar has, and the caps on it (:mod:`traffic_policy.pod.governed`)."""
OURS: Final = (STATUS, EFFECTIVE)
"""What users do not write."""

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
IMAGE: Final = f"{PREFIX}image"

MODE_LABEL: Final = f"{PREFIX}mode"
"""On a namespace or a Pod, which wins: ``agent``, ``sidecar`` or ``none``."""
ENFORCE_LABEL: Final = f"{PREFIX}enforce"
"""On a namespace ``"true"``: no Pod there is without limits."""
LABELS: Final = (INJECT_LABEL, MODE_LABEL, ENFORCE_LABEL, REVISION_LABEL)
MAX_EGRESS: Final = f"{PREFIX}max-egress-bandwidth"
"""On a namespace: the greatest total that its Pods may send."""
MAX_INGRESS: Final = f"{PREFIX}max-ingress-bandwidth"

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


ANNOTATIONS: Final = (
    EGRESS, INGRESS, CLASSES, DEFAULT_CLASS, POLICY,
    EXCLUDE_PORTS, EXCLUDE_CIDRS, EXCLUDE_INBOUND_PORTS, EXCLUDE_INBOUND_CIDRS,
    ON_FAILURE, DETECTION_TIMEOUT, DATAPATH, MESH, LOG_LEVEL, CPU_REQUEST, CPU_LIMIT, MEMORY_REQUEST, MEMORY_LIMIT,
    IMAGE,
)  # fmt: skip
"""What users may write, in the order of the reference."""
