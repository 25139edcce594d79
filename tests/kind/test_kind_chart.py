"""The chart in a kind cluster: installed, upgraded while Pods are created, and what Pod Security says to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kind_api import administrator
from kind_cluster import PRIVILEGED, SIZE, STRICT, SYSTEM, Client, KindCluster, Server, lone_pod
from kubectl import Kubectl, RefusedError
from manifests import INJECTED
from steady import PodCreator
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")


def test_pods_can_be_created_as_soon_as_helm_has_waited(refused_for: float) -> None:
    """Injectors count as available some seconds after they are ready: until kube-proxy has heard of them they are not reached."""
    assert refused_for < 5


def test_it_is_installed_and_its_own_test_passes(installed: KindCluster) -> None:
    """Both injectors are ready, in a namespace that enforces "restricted"; `helm test` gets a Pod injected."""
    system = installed.kubectl.within(SYSTEM)
    pods = [p for p in system.list("pods") if p["metadata"]["labels"]["app.kubernetes.io/component"] == "injector"]
    assert [c["ready"] for pod in pods for c in pod["status"]["containerStatuses"]] == [True, True]
    assert "Phase:          Succeeded" in installed.helm("test", "podlane", "--timeout=120s")


def test_an_upgrade_under_load_loses_no_pod_and_no_request(
    installed: KindCluster, shop: Kubectl, server: Server, tmp_path: Path
) -> None:
    """Both injectors are replaced; every Pod that is created meanwhile is injected, and sidecars go on."""
    client = Client.start(shop, "asking")
    with PodCreator(administrator(installed, tmp_path), shop.namespace) as creator, client.asking(server):
        until("requests through the sidecar", lambda: client.lanes()["video"]["connections"]["total"], patience=60)
        creator.more()
        installed.upgrade("injector.logLevel=debug")
        creator.more()
    print(f"{creator.outcomes.total()} Pods created (as dry runs) meanwhile")
    assert creator.outcomes.keys() == {"injected"}


def test_a_namespace_that_enforces_privileged_takes_the_sidecar(installed: KindCluster, server: Server) -> None:
    installed.make_namespace(PRIVILEGED, {**INJECTED, "pod-security.kubernetes.io/enforce": "privileged"})
    pod = Client.start(installed.kubectl.within(PRIVILEGED), "client")
    assert pod.is_held(server, SIZE, "video.example.com", "http")


def test_a_namespace_that_enforces_baseline_says_what_it_does_not_allow(installed: KindCluster) -> None:
    """The sidecar's capability is beyond Pod Security "baseline"."""
    installed.make_namespace(STRICT, {**INJECTED, "pod-security.kubernetes.io/enforce": "baseline"})
    with pytest.raises(RefusedError) as refused:
        installed.kubectl.within(STRICT)("apply", "--filename=-", stdin=json.dumps(lone_pod("any")))
    print(refused.value)
    assert 'violates PodSecurity "baseline' in str(refused.value)
    assert '(container "podlane" must not include "NET_ADMIN" in' in str(refused.value)
