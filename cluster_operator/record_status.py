"""What the status of a policy says of its record in a control plane. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cluster_operator.conditions import condition_of, with_condition

RECORDED: Final = "Recorded"
_REVISION: Final = "revision"


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
    old = condition_of(before, RECORDED)
    if state is None:
        known = {_REVISION: before[_REVISION]} if _REVISION in before else {}
        return {**status, **known, "conditions": [*status["conditions"], *([old] if old else [])]}
    revision = {_REVISION: state.revision} if state.revision else {}
    said = ("True" if state.recorded else "False", state.reason, state.message)
    return {**with_condition(status, RECORDED, said, before, now), **revision}


def speaks_of_record(status: Mapping[str, Any]) -> bool:
    """Whether it does, which is wrong without a control plane."""
    return _REVISION in status or bool(condition_of(status, RECORDED))
