"""Events: what `kubectl describe` shows of a controller's Pods that were injected, skipped or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, LIMITED, deployment, job, pod, stateful_set
from release import Injector, Release
from trust import metric
from waiting import until

from daemon.kubernetes import event_series
from daemon.kubernetes.access import from_kubeconfig
from daemon.kubernetes.api import ApiServer
from daemon.kubernetes.event_series import Happening, Owner
from injector.pod.happenings import EventReason
from injector.server.events import Events
from injector.server.metrics import InjectorMetrics

WRONG = LIMITED | {"podlane.io/classes": "[{name: api, rate: 20Mbit, match: {port: 443}}]"}
GUARANTEED = {"cpu": "100m", "memory": "64Mi"}


@pytest.fixture(scope="module")
def one(vacant: Release) -> Iterator[Injector]:
    """One injector: two would have an Event each, as two replicas have."""
    injector = vacant.start()
    vacant.serve([injector])
    yield injector
    vacant.stop()


@pytest.fixture
def kubectl(cluster: Cluster, one: Injector) -> Kubectl:  # noqa: ARG001
    """In a namespace that opted in."""
    return cluster.namespace(INJECTED)


def events(kubectl: Kubectl, reason: str) -> list[dict[str, Any]]:
    """Those of the injector."""
    options = f"--field-selector=reason={reason},reportingComponent=podlane-injector"
    found: list[dict[str, Any]] = json.loads(kubectl("get", "events", options, "-o", "json"))["items"]
    return found


def described(kubectl: Kubectl, kind: str, name: str, reason: str) -> str:
    """The line of `kubectl describe` with this reason, its columns separated by one space."""

    def line() -> str:
        shown = kubectl("describe", kind, name).partition("\nEvents:")[2]
        return next((" ".join(each.split()) for each in shown.splitlines() if f" {reason} " in each), "")

    return until(f"{reason} in kubectl describe {kind}", line)


def test_a_refused_deployment_says_why(cluster: Cluster, one: Injector) -> None:
    """It was there before its namespace opted in, so nobody refused its template. Its ReplicaSet tries for ever."""
    kubectl = cluster.namespace()
    kubectl.create(deployment(WRONG, 0))
    cluster.kubectl("label", "namespace", kubectl.namespace, "podlane.io/inject=enabled")
    kubectl("scale", "deployment/web", "--replicas=2")
    line = described(kubectl, "deployment", "web", "Refused")
    assert re.fullmatch(
        r"Warning Refused .+ podlane-injector podlane\.io/classes: .*Cannot guarantee 20 Mbit/s inside 10 Mbit/s.*", line
    )  # fmt: skip
    said = kubectl("get", "events", "--field-selector=reason=FailedCreate", "-o", "jsonpath={.items[*].message}")
    assert "Cannot guarantee" in said, "as before, where few look: in the ReplicaSet's Events"

    def refusals() -> float:
        return metric(one, "podlane_injector_admissions_total", missing=0, webhook="mutate", result="refused")

    until("it to have tried some more times", lambda: refusals() >= 8)
    (event,) = events(kubectl, "Refused")
    assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Deployment", "web")


def test_an_injected_deployment_says_so_once(kubectl: Kubectl) -> None:
    kubectl.create(deployment(LIMITED, 3))
    line = described(kubectl, "deployment", "web", "Injected")
    assert re.fullmatch(r"Normal Injected .+ podlane-injector Podlane's sidecar was injected\.", line)
    kubectl("wait", "--for=jsonpath={.status.replicas}=3", "deployment/web", "--timeout=30s")
    assert len(events(kubectl, "Injected")) == 1


def test_warnings_that_only_a_controller_heard_are_told(kubectl: Kubectl) -> None:
    document = deployment(LIMITED)
    document["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": GUARANTEED}
    kubectl.create(document)
    line = described(kubectl, "deployment", "web", "Injected")
    assert line.startswith("Warning Injected ")
    assert "Podlane's sidecar was injected. The sidecar requests 200m cpu and 256Mi memory" in line


@pytest.mark.parametrize(
    ("document", "kind", "name"),
    [(stateful_set(), "statefulset", "web"), (job(), "job", "once")], ids=["StatefulSet", "Job"],
)  # fmt: skip
def test_a_controller_that_makes_pods_itself_says_so_itself(
    kubectl: Kubectl, document: dict[str, Any], kind: str, name: str
) -> None:
    document["spec"]["template"]["spec"]["hostNetwork"] = True
    kubectl.create(document)
    line = described(kubectl, kind, name, "Skipped")
    assert re.fullmatch(
        r"Warning Skipped .+ podlane-injector This Pod is not held to limits\. It uses its node's network, .*", line
    )


def owned(name: str, uid: str, **spec: Any) -> dict[str, Any]:
    """A Pod that says it was made by a StatefulSet."""
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": uid, "controller": True}
    document = pod({"podlane.io/egress-bandwidth": "fast"}, **spec)
    document["metadata"] |= {"name": name, "ownerReferences": [owner]}
    return document


def test_dry_runs_and_pods_of_nobody_leave_no_event(kubectl: Kubectl) -> None:
    document = stateful_set()
    document["spec"]["replicas"] = 0
    uid = kubectl.create(document)["metadata"]["uid"]

    def refused(attempt: Callable[[], object]) -> None:
        with pytest.raises(RefusedError, match="is not a Kubernetes quantity"):
            attempt()

    nobodys = owned("nobodys", uid)
    del nobodys["metadata"]["ownerReferences"]
    refused(lambda: kubectl.create(nobodys))
    refused(lambda: kubectl.create(owned("dry", uid), "--dry-run=server"))
    assert "podlane.io/status" in kubectl.create(pod(), "--dry-run=server")["metadata"]["annotations"]
    refused(lambda: kubectl.create(owned("real", uid)))
    (event,) = until("the Event of the real one", lambda: events(kubectl, "Refused"))
    assert event["count"] == 1
    assert event["involvedObject"] | {"uid": uid, "kind": "StatefulSet", "name": "web"} == event["involvedObject"]
    assert events(kubectl, "Injected") == []


@pytest.mark.usefixtures("one")
def test_the_api_server_takes_every_write(cluster: Cluster, vacant: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rights that the chart gives: an Event is made, counts on, and is made again when it has been deleted."""
    monkeypatch.setattr(event_series, "WRITE_INTERVAL", 0.05)
    kubectl = cluster.namespace()
    name = "a" * 253
    owner = Owner("example.com/v1", "Anything", name, "705ab4f5-6393-11e8-b7cc-42010a800002")
    happening = Happening(kubectl.namespace, owner, EventReason.REFUSED, "ä€\U0001f600 " + "x" * 996, is_warning=True)
    access, metrics = from_kubeconfig(vacant.kubeconfig()), InjectorMetrics()

    async def add_until(written: Events, count: int) -> None:
        """Add one more, and wait until the API server has the Event with this count."""

        def there() -> bool:
            return [event["count"] for event in events(kubectl, "Refused")] == [count]

        written.add(happening)
        await trio.to_thread.run_sync(until, f"the Event with the count {count}", there)

    async def main() -> None:
        api = ApiServer(access)
        written = Events(api, metrics)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(written.run)
            await add_until(written, 1)
            await add_until(written, 2)
            kubectl("delete", "events", "--all")
            await add_until(written, 3)
            nursery.cancel_scope.cancel()
        await api.aclose()

    trio.run(main)
    assert 'podlane_injector_events_total{result="written"} 3' in metrics.render().decode()
    assert 'result="failed"' not in metrics.render().decode()
