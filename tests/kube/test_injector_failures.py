"""What becomes of Pods when injectors end, die, are not reached, or may not do what they have to."""

from __future__ import annotations

import signal

import pytest
from cluster import Cluster
from kubectl import RefusedError
from manifests import INJECTED, pod
from release import Release
from steady import PodCreator
from waiting import until

IGNORE = {"webhook": {"failurePolicy": "Ignore"}}


def test_when_nobody_answers_only_those_who_opted_in_are_refused(cluster: Cluster, alone: Release) -> None:
    opted_in, others = cluster.namespace(INJECTED), cluster.namespace()
    with pytest.raises(RefusedError, match=r'failed calling webhook "namespace\.inject\.podlane\.io"'):
        opted_in.create(pod())
    others.create(pod())
    opted_in.create(pod(labels={"podlane.io/inject": "false"}))
    cluster.kubectl.within("kube-system").create(pod(labels={"podlane.io/inject": "true"}), "--dry-run=server")

    alone.serve([alone.start()])
    document = pod()
    document["metadata"]["name"] = "later"
    assert opted_in.create(document)["spec"]["initContainers"]


def test_with_ignore_pods_are_let_in_without_limits(cluster: Cluster, alone: Release) -> None:
    alone.install(IGNORE)
    stored = cluster.namespace(INJECTED).create(pod())
    assert "initContainers" not in stored["spec"]
    assert "podlane.io/status" not in stored["metadata"]["annotations"]


def test_with_ignore_a_pod_that_only_mutation_missed_is_refused(cluster: Cluster, alone: Release) -> None:
    """Half an outage must not let Pods slip by: the validating webhook sees that the limits are not there."""
    alone.install(IGNORE)
    alone.serve([alone.start()])
    alone.ask_at("mutatingwebhookconfiguration", 9)
    kubectl = cluster.namespace(INJECTED)

    def refusal() -> str | None:
        try:
            kubectl.create(pod(), "--dry-run=server")
        except RefusedError as refused:
            return str(refused)
        return None

    said = until("the API server to go nowhere", refusal)
    assert 'admission webhook "namespace.validate.podlane.io" denied the request: ' in said
    assert "mutating webhook was not reached" in said


def test_an_injector_that_is_stopped_costs_no_request(cluster: Cluster, alone: Release) -> None:
    """As in a rolling update: SIGTERM first, and the Service forgets it a little later, while it lingers."""
    first, second = alone.start("--linger=5s"), alone.start()
    alone.serve([first])
    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        creator.more()
        first.daemon.process.send_signal(signal.SIGTERM)
        until("its end to begin", lambda: '"event": "ending"' in first.daemon.output)
        creator.more(5)
        assert first.daemon.running(), "it lingers"
        alone.address.endpoints = (second.port,)
        assert first.daemon.process.wait(20) == 0
        creator.more()
    assert set(creator.outcomes) == {"injected"}
    assert '"event": "patched"' in second.daemon.output


def test_an_injector_that_is_killed_lets_no_pod_slip_by(cluster: Cluster, alone: Release) -> None:
    first, second = alone.start(), alone.start()
    alone.serve([first])
    alone.address.endpoints = (first.port, second.port)
    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        creator.more()
        first.daemon.kill()
        alone.address.endpoints = (second.port,)
        until("injection by the other", lambda: "mutate" in second.daemon.output, patience=30)
        creator.more()
    refused = [reason for reason in creator.outcomes if reason != "injected"]
    assert creator.outcomes["bare"] == 0
    assert all("failed calling webhook" in reason for reason in refused), refused


def test_without_its_rights_an_injector_says_which_is_missing(alone: Release) -> None:
    alone.kubectl("delete", "rolebinding", "podlane-injector")
    kept = alone.kubectl.get("secret", "podlane-injector-certificates")["data"]
    daemon = alone.launch()
    said = until("a complaint", lambda: daemon.output if "cannot be kept" in daemon.output else "")
    assert "may not get secrets podlane-injector-certificates in namespace podlane-system" in said
    assert "Give its service account the verb 'get' on secrets" in said
    assert alone.kubectl.get("secret", "podlane-injector-certificates")["data"] == kept
