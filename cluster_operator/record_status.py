"""What the status of a policy says of its record in a control plane. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from traffic_policy.errors import shortened

RECORDED: Final = "Recorded"
_REVISION: Final = "revision"
_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class RecordState:
    """What became of the record of a policy. ``reason`` is that of a condition; ``revision`` 0: there is none."""

    recorded: bool
    reason: str
    message: str
    revision: int = 0


def with_record(
    status: Mapping[str, Any], state: RecordState | None, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """A status with what it says of the record. ``state`` None: nothing is known yet, so that it says what it said."""
    old = _condition(before)
    if state is None:
        known = {_REVISION: before[_REVISION]} if _REVISION in before else {}
        return {**status, **known, "conditions": [*status["conditions"], *([old] if old else [])]}
    so = "True" if state.recorded else "False"
    since = old.get("lastTransitionTime") if old.get("status") == so else None
    made = {
        "type": RECORDED,
        "status": so,
        "reason": state.reason,
        "message": shortened(state.message, _LONGEST),
        "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "observedGeneration": status["observedGeneration"],
    }
    revision = {_REVISION: state.revision} if state.revision else {}
    return {**status, **revision, "conditions": [*status["conditions"], made]}


def speaks_of_record(status: Mapping[str, Any]) -> bool:
    """Whether it does, which is wrong without a control plane."""
    return _REVISION in status or bool(_condition(status))


def _condition(status: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = (each for each in status.get("conditions") or () if isinstance(each, Mapping))
    return next((each for each in conditions if each.get("type") == RECORDED), {})
