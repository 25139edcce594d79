"""What an agent tells about a Pod by Events on it. Pure."""

from __future__ import annotations

from typing import Final

from daemon.kubernetes.event_series import Happening, Owner, event_message
from node_agent.lanes import State
from node_agent.workload import NodeWorkload

PROGRAMMED: Final = "LanesProgrammed"
REFUSED: Final = "LanesRefused"
FAILED: Final = "LanesFailed"


def happening(workload: NodeWorkload, state: State, reason: str, note: str = "") -> Happening | None:
    """The Event for a workload's new state, and for a changed policy; None: nothing that anybody waits for.

    ``note`` is a sentence about where lanes in force are."""
    if not workload.uid or state is State.WAITING:
        return None
    if state is State.PROGRAMMED and not reason and workload.lanes is not None:
        policy, warnings = workload.lanes.policy, workload.lanes.warnings
        names = ", ".join([each.name for each in policy.classes] + ["default"])
        text = " ".join([f"Lanes are in force: {policy.total} shared by {names}.", *filter(None, (note,)), *warnings])
        return _happening(workload, PROGRAMMED, text, is_warning=bool(warnings))
    return _happening(workload, REFUSED if workload.lanes is None else FAILED, reason, is_warning=True)


def _happening(workload: NodeWorkload, reason: str, message: str, *, is_warning: bool) -> Happening:
    pod = Owner("v1", "Pod", workload.labels["pod"], workload.uid)
    return Happening(workload.labels["namespace"], pod, reason, event_message(message), is_warning)
