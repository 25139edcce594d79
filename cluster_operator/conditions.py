"""One condition of a status, as Kubernetes' conventions have them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from traffic_policy.errors import shortened

LONGEST_MESSAGE: Final = 1000
"""Characters of a message."""


def condition_of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of a type; empty: it has none."""
    conditions = (each for each in status.get("conditions") or () if isinstance(each, Mapping))
    return next((each for each in conditions if each.get("type") == kind), {})


def with_condition(
    status: Mapping[str, Any], kind: str, said: tuple[str, str, str], before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """A status with one more condition: ``said`` is whether it is so, the reason and the message. What is so already in
    ``before``, the status that there is, keeps the time since when it is."""
    so, reason, message = said
    old = condition_of(before, kind)
    since = old.get("lastTransitionTime") if old.get("status") == so else None
    made = {
        "type": kind,
        "status": so,
        "reason": reason,
        "message": shortened(message, LONGEST_MESSAGE),
        "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "observedGeneration": status["observedGeneration"],
    }
    return {**status, "conditions": [*status["conditions"], made]}
