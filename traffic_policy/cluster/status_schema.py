"""What agents and the operator write: reports, and the status of policies. Schemas, and the limits that they have."""

from __future__ import annotations

from typing import Any, Final

MOST_REASONS: Final = 3
LONGEST_REASON: Final = 300
"""Characters."""
MOST_PODS: Final = 1000
"""Pods of a node in its report; kubelets have 110 by default."""


def _text(about: str, longest: int = 253) -> dict[str, Any]:
    return {"type": "string", "description": about, "maxLength": longest}


def _number(about: str) -> dict[str, Any]:
    return {"type": "integer", "description": about, "minimum": 0}


def _object(about: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    found = {"type": "object", "description": about, "properties": properties}
    return {**found, "required": list(required)} if required else found


_CONDITION: Final = _object(
    "One condition, as Kubernetes has them (metav1.Condition).",
    {
        "type": _text(
            "Accepted, Programmed, Conflicted, Clamped, OtherLimits, Recorded, MeshProgrammed, Ready, Reconciling or "
            "Stalled."
        ),
        "status": {"type": "string", "description": "Whether it is so.", "enum": ["True", "False", "Unknown"]},
        "reason": _text("Why, in one word."),
        "message": _text("Why, in sentences.", 2000),
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "Since when it is so."},
        "observedGeneration": _number("The generation of the policy that this is about."),
    },
    "type",
    "status",
)
_PODS: Final = _object(
    "How many Pods there are.",
    {
        "matched": _number("Those that its selectors take."),
        "programmed": _number("Those of them in which it is in force, in this generation."),
        "failed": _number("Those in which it cannot be put in force; reasons say why."),
        "overruled": _number("Those that have another policy, which wins."),
    },
)
_REASON: Final = _object(
    "Why it is not in force in some Pods.",
    {"reason": _text("In sentences.", LONGEST_REASON + 10), "pods": _number("In how many Pods.")},
)
_STATUS: Final = _object(
    "What became of the policy. The operator writes it.",
    {
        "observedGeneration": {
            "type": "integer",
            "description": "The generation of the policy that the status is about; -1: nobody has looked at it yet.",
            "minimum": -1,
        },
        "classes": _text("The names of its classes.", 2000),
        "revision": _number("The revision that it is in the control plane, where the operator has one."),
        "pods": _PODS,
        "reasons": {
            "type": "array",
            "description": "The commonest reasons for which Pods that it is for do not have it.",
            "items": _REASON,
            "maxItems": MOST_REASONS,
        },
        "conditions": {
            "type": "array",
            "description": "Accepted: it can be honoured. Programmed: all its Pods have it. Conflicted: another policy "
            "of its kind wins in some Pods. Clamped: caps lower it in some Pods. OtherLimits: something "
            "else, as a bandwidth plugin of the node, holds some Pods, too. Recorded: the control plane has it, where "
            "the operator has one. MeshProgrammed: the objects that spec.mesh asks for are there. Ready, Reconciling "
            "and Stalled: the same in the words by which GitOps tools judge (kstatus).",
            "items": _CONDITION,
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    },
)
STATUS: Final[dict[str, Any]] = {**_STATUS, "default": {"observedGeneration": -1}}
"""Without the default, whoever judges objects by their status would take a policy of which nobody has said anything for
one that is in force."""
REPORT: Final[dict[str, Any]] = {
    "pods": {
        "type": "array",
        "description": "The Pods of the node that have a policy of the cluster.",
        "items": _object(
            "One Pod.",
            {
                "uid": _text("The UID of the Pod."),
                "policy": _text("The UID of the policy that it has."),
                "generation": _number("The generation of the policy that this is about."),
                "state": {
                    "type": "string",
                    "description": "Whether the policy is in force there.",
                    "enum": ["programmed", "failed", "waiting"],
                },
                "reason": _text("Why it is not.", LONGEST_REASON + 10),
                "clamped": _text("What caps have lowered.", LONGEST_REASON + 10),
                "others": _text("What else holds the Pod, as a bandwidth plugin of the node.", LONGEST_REASON + 10),
            },
            "uid",
            "policy",
            "generation",
            "state",
        ),
        "maxItems": MOST_PODS,
    }
}
