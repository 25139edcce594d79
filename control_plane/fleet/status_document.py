"""What a process says of an agent, of its rollouts, or of what went through lanes, to other processes: JSON. Pure.

They may be of another version: what is not known is left out, and what is missing is as in a new status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from control_plane.domain.rollout_gates import Traffic
from control_plane.fleet.agent_status import AgentStatus, RolloutTraffic, WorkloadFailure
from control_plane.fleet.figures import FIELDS, LaneRow

_PLAIN: Final = (
    "connected", "since", "heard", "address", "instance", "version", "kernel", "expires", "revision", "refusal",
    "programmed", "failed", "waiting", "cpu_ms", "memory", "workloads", "ended",
)  # fmt: skip
"""Fields that are in JSON what they are here."""
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def write_status(status: AgentStatus) -> str:
    """All but epoch and process, which have columns of their own."""
    document: dict[str, object] = {name: getattr(status, name) for name in _PLAIN}
    document["labels"] = status.labels
    document["abilities"] = status.abilities
    document["hash"] = status.hash.hex()
    document["desired"] = status.desired[0], status.desired[1].hex()
    document["failures"] = [(f.workload, f.state, f.reason, f.policy) for f in status.failures]
    document["troubles"] = status.troubles
    return _encode(document)


def read_status(document: str, epoch: int, process: str) -> AgentStatus:
    """As :func:`write_status` has written it."""
    found: dict[str, Any] = json.loads(document)
    status = AgentStatus(**{name: found[name] for name in _PLAIN if name in found})
    status.epoch, status.process = epoch, process
    status.labels, status.abilities = found.get("labels", {}), tuple(found.get("abilities", ()))
    status.hash = bytes.fromhex(found.get("hash", ""))
    revision, hash = found.get("desired", (0, ""))
    status.desired = revision, bytes.fromhex(hash)
    status.failures = tuple(WorkloadFailure(*each) for each in found.get("failures", ()))
    status.troubles = tuple(found.get("troubles", ()))
    return status


def write_traffic(traffic: Mapping[str, RolloutTraffic]) -> str:
    """Of the rollouts of a tenant."""
    return _encode({name: (each.step, _numbers(each.before), _numbers(each.now)) for name, each in traffic.items()})


def read_traffic(document: str) -> dict[str, RolloutTraffic]:
    """As :func:`write_traffic` has written it."""
    return {
        name: RolloutTraffic(Traffic(*before), Traffic(*now), tuple(step))
        for name, (step, before, now) in json.loads(document).items()
    }


def write_sums(sums: Mapping[str, Sequence[LaneRow]]) -> str:
    """What a process has heard in a second, of each cluster and, without a name, of all."""
    return _encode(sums)


def read_sums(document: str) -> dict[str, list[LaneRow]]:
    """As :func:`write_sums` has written it."""
    return {
        cluster: [(policy, lane, direction, numbers[: len(FIELDS)]) for policy, lane, direction, numbers in rows]
        for cluster, rows in json.loads(document).items()
    }


def _numbers(traffic: Traffic) -> tuple[int, int, int]:
    return traffic.packets, traffic.dropped, traffic.throttled
