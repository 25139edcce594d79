"""Tells the API server which policies of the cluster are in force on this node: a TrafficReport, one for each node.

One object for a node, and not a word on each Pod: a policy for thousands of Pods changes with one request for each node
that has some, and an agent needs no right to change Pods. It is written when it differs, once a second at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, node, traffic_report
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.log import Logger
from node_agent.agent import Agent
from node_agent.lanes import State, WorkloadLanes
from traffic_policy.cluster.kinds import API_VERSION, TRAFFIC_REPORT
from traffic_policy.cluster.status_schema import LONGEST_REASON, MOST_PODS
from traffic_policy.errors import shortened

_SPACING_S: Final = 1.0
_AGAIN_S: Final = 10.0
"""Seconds before what has failed is tried again."""

log_some = Logger(spacing=600.0)


class PolicyReporter:
    """Keeps a node's report."""

    def __init__(self, api: ApiServer, node: str, agent: Agent) -> None:
        self._api = api
        self._node = node
        self._agent = agent
        self._written: list[dict[str, Any]] | None = None
        """None: not known."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause = _SPACING_S
            try:
                await self._report()
            except ApiError as error:
                self._written, pause = None, _AGAIN_S
                if not isinstance(error, NotFoundError):  # there are no definitions, and so no policies
                    log_some.warning("policies in force cannot be reported", error=str(error))
            await trio.sleep(pause)

    async def _report(self) -> None:
        if not self._agent.synced:
            return
        pods = pods_reported(self._agent.running)
        if self._written is None:
            self._written = await self._earlier()
        if pods == self._written:
            return
        metadata = {"name": self._node, **await self._owner()}
        document = {"apiVersion": API_VERSION, "kind": TRAFFIC_REPORT, "metadata": metadata, "pods": pods}
        await self._api.apply(traffic_report(self._node), document, force=True)
        self._written = pods

    async def _earlier(self) -> list[dict[str, Any]]:
        """What an earlier agent has written. A node without policies has no report."""
        try:
            found = (await self._api.get(traffic_report(self._node))).get("pods")
        except NotFoundError:
            return []
        return found if isinstance(found, list) else []

    async def _owner(self) -> dict[str, Any]:
        """The report goes with its Node."""
        try:
            about = (await self._api.get(node(self._node)))["metadata"]
        except NotFoundError:
            return {}
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": about["uid"]}
        return {"ownerReferences": [owner]}


def pods_reported(running: Mapping[str, WorkloadLanes]) -> list[dict[str, Any]]:
    """Of the Pods that have a policy of the cluster, by UID. Pure."""
    entries = (entry for lanes in running.values() if (entry := _entry(lanes)) is not None)
    return sorted(entries, key=lambda each: str(each["uid"]))[:MOST_PODS]


def _entry(lanes: WorkloadLanes) -> dict[str, Any] | None:
    workload = lanes.workload
    policy = workload.policy
    if policy is None or not workload.uid or lanes.ended:
        return None
    state = "waiting"
    if lanes.judged and lanes.state is not State.WAITING:
        state = "programmed" if lanes.state is State.PROGRAMMED and not lanes.reason else "failed"
    told = {
        "reason": _line(lanes.reason) if state == "failed" else "",
        "clamped": _line(" ".join(filter(None, (*workload.lanes.clamps, _beyond_budget(lanes)))))
        if workload.lanes is not None
        else "",
        "others": _line(" ".join((*workload.lanes.neighbours, *lanes.others))) if workload.lanes is not None else "",
    }
    return {
        "uid": workload.uid,
        "policy": policy.uid,
        "generation": policy.generation,
        "state": state,
        **{key: text for key, text in told.items() if text},
    }


def _beyond_budget(lanes: WorkloadLanes) -> str:
    return "" if lanes.budget is None else lanes.budget.warning


def _line(text: str) -> str:
    return shortened(" ".join(text.split()), LONGEST_REASON)
