"""What became of what the control plane desires. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from fleet_api.agent_pb2 import Applied, WorkloadState
from fleet_api.desired import DesiredState
from fleet_api.limits import MAX_FAILURES
from node_agent.lanes import State, WorkloadLanes
from node_agent.workload import NodeWorkload

_LONGEST: Final = 300
"""Characters of a reason; the log has all of it."""

Running = Mapping[str, WorkloadLanes]


def concerned(placed: Mapping[str, NodeWorkload]) -> Iterator[NodeWorkload]:
    """The workloads that have a policy of the control plane."""
    return (each for each in placed.values() if each.fleet_policy)


def settled(placed: Mapping[str, NodeWorkload], running: Running) -> bool:
    """Whether each workload that is concerned has come to what it is to have, or to a reason why not."""
    return all(
        (lanes := running.get(each.name)) is not None and lanes.workload == each and lanes.judged
        for each in concerned(placed)
    )


def outcome(state: DesiredState, state_hash: bytes, placed: Mapping[str, NodeWorkload], running: Running) -> Applied:
    """The counts of the workloads that are concerned, and those of them that failed."""
    told = Applied(revision=state.revision, hash=state_hash)
    for workload in concerned(placed):
        lanes = running.get(workload.name)
        if lanes is None or lanes.state is State.WAITING:
            told.waiting += 1
        elif lanes.state is State.PROGRAMMED and not lanes.reason:
            told.programmed += 1
        else:
            told.failed += 1
            if len(told.failures) < MAX_FAILURES:
                told.failures.append(failure(lanes))
    return told


def failure(lanes: WorkloadLanes) -> WorkloadState:
    """Why a workload is not as it is wanted."""
    workload = lanes.workload
    return WorkloadState(
        workload=workload.name,
        state=lanes.state.value,
        reason=shortened_reason(lanes.reason),
        policy=workload.fleet_policy,
    )


def shortened_reason(text: str) -> str:
    """One line that fits into a message."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
