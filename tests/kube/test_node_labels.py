"""Labels of a Node, as an agent follows them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
from cluster import Cluster

from daemon.kubernetes.access import find_access
from daemon.kubernetes.api import ApiServer
from node_agent.fleet.node_labels import NodeLabels


def node(name: str, **labels: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


@pytest.fixture
def api(kubeconfig: Path) -> ApiServer:
    access = find_access(kubeconfig, None, {})
    assert access is not None
    return ApiServer(access, program="podlane-agent")


@pytest.mark.trio
async def test_they_are_followed_and_kept(cluster: Cluster, api: ApiServer, tmp_path: Path) -> None:
    kubectl = cluster.kubectl
    kubectl.create(node("labelled-1", zone="a", rack="7"))
    kubectl.create(node("labelled-2", zone="z"))
    try:
        labels = NodeLabels(tmp_path, {"rack": "own"}, followed=True)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(labels.run, api, "labelled-1")
                await labels.known()
                assert (labels.said["zone"], labels.said["rack"]) == ("a", "own"), "given by hand, it counts more"
                changed = labels.changed.next()
                await trio.to_thread.run_sync(partial(kubectl, "label", "node", "labelled-1", "zone=b", "--overwrite"))
                await changed.wait()
                assert labels.said["zone"] == "b"
                nursery.cancel_scope.cancel()
            again = NodeLabels(tmp_path, {}, followed=True)
            await again.known()
            assert (again.said["zone"], again.said["rack"]) == ("b", "7"), "without the API server"
    finally:  # other tests count nodes
        kubectl("delete", "node", "labelled-1", "labelled-2")
