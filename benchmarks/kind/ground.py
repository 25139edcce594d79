"""What a run needs in the cluster, made before it and removed after it: a namespace, and Podlane unless it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.command import undisturbed
from benchmarks.errors import BenchmarkError
from benchmarks.kind import manifests
from benchmarks.kind.cluster import PATIENCE, Api, Cluster, ClusterError, NotThereError, until
from benchmarks.kind.manifests import MINE, Place
from benchmarks.kind.variants import RELAY

_CHART: Final = Path(__file__).parents[2] / "charts" / "podlane"
_RELEASE: Final = "podlane-bench"
_WEBHOOKS: Final = (
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    "?labelSelector=app.kubernetes.io/part-of=podlane"
)
_DIFFICULT: Final = ("NoSchedule", "NoExecute")

Say = Callable[[str], None]


@contextmanager
def prepared(cluster: Cluster, api: Api, place: Place, podlane_image: str, say: Say, *, agents: bool) -> Iterator[None]:
    """The namespace with the files for Pods, and an injector that answers, for the block; with ``agents`` on the nodes.

    What is installed is used as it is. Raises :class:`BenchmarkError`.
    """
    _clear_system(cluster, api, place, say)
    with _namespace(api, place.namespace, say):
        api.ask("POST", f"/api/v1/namespaces/{place.namespace}/configmaps", manifests.configuration())
        if api.get(_WEBHOOKS)["items"]:
            say("Podlane is installed: it is used as it is")
            _until_injecting(api, place)
            yield
        else:
            with _installed(cluster, api, place, podlane_image, say, agents=agents):
                yield


def choose_node(api: Api, wanted: str | None) -> dict[str, Any]:
    """The node of all Pods: the named one, or the first that takes Pods. Raises :class:`BenchmarkError`."""
    nodes = {node["metadata"]["name"]: node for node in api.get("/api/v1/nodes")["items"]}
    if wanted is not None:
        if wanted not in nodes:
            raise BenchmarkError(f"There is no node {wanted}. There are: {', '.join(nodes)}.")
        return dict(nodes[wanted])
    for node in nodes.values():
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
        tainted = any(taint["effect"] in _DIFFICULT for taint in node["spec"].get("taints", []))
        if ready and not tainted:
            return dict(node)
    raise BenchmarkError("No node is ready for Pods without tolerations. See: kubectl get nodes.")


def _is_ours(api: Api, name: str) -> bool | None:
    """Whether a run has made that namespace; None where there is none."""
    try:
        labels: dict[str, str] = api.get(f"/api/v1/namespaces/{name}")["metadata"].get("labels", {})
    except NotThereError:
        return None
    return MINE.items() <= labels.items()


@contextmanager
def _namespace(api: Api, name: str, say: Say) -> Iterator[None]:
    path = f"/api/v1/namespaces/{name}"
    ours = _is_ours(api, name)
    if ours is False:
        raise BenchmarkError(
            f"The namespace {name} exists, and this benchmark did not make it. Name another by --namespace."
        )
    if ours:
        say(f"removing the namespace {name} of an earlier run")
        _remove_namespace(api, name)
    try:
        api.ask("POST", "/api/v1/namespaces", manifests.namespace(name))
        # Pods are refused until it is there.
        until(f"the service account of {name}", lambda: _exists(api, f"{path}/serviceaccounts/default"))
        yield
    finally:
        with undisturbed():
            say(f"removing the namespace {name}")
            _remove_namespace(api, name)


@contextmanager
def _installed(cluster: Cluster, api: Api, place: Place, image: str, say: Say, *, agents: bool) -> Iterator[None]:
    """The chart in a namespace beside the Pods', since a release's own is never injected."""
    system = _system(place)
    repository, _, tag = image.rpartition(":")
    with _namespace(api, system, say):
        say(f"installing Podlane ({image}) into {system}")
        values = f"--set=image.repository={repository},image.tag={tag},tests.enabled=false"
        if agents:
            values += ",agent.enabled=true"
        try:
            cluster.run_helm("install", _RELEASE, str(_CHART), *_options(place), values, patience=PATIENCE + 30)
            _until_injecting(api, place)
            yield
        finally:
            with undisturbed():
                say("uninstalling Podlane")
                _uninstall(cluster, place)


def _clear_system(cluster: Cluster, api: Api, place: Place, say: Say) -> None:
    """What a run that was killed has installed is not somebody's Podlane: it may be of another image."""
    if _is_ours(api, _system(place)):
        say(f"uninstalling Podlane of an earlier run from {_system(place)}")
        _uninstall(cluster, place)
        _remove_namespace(api, _system(place))


def _uninstall(cluster: Cluster, place: Place) -> None:
    cluster.run_helm("uninstall", _RELEASE, "--ignore-not-found", *_options(place), patience=PATIENCE + 30)


def _options(place: Place) -> tuple[str, ...]:
    """Of helm."""
    return (f"--namespace={_system(place)}", f"--timeout={PATIENCE:g}s", "--wait")


def _system(place: Place) -> str:
    return f"{place.namespace}-system"


def _until_injecting(api: Api, place: Place) -> None:
    """Until kube-proxy has heard of the injectors the API server is refused."""
    path = f"/api/v1/namespaces/{place.namespace}/pods?dryRun=All"
    document = manifests.started(place, "injected", RELAY)

    def injects() -> bool:
        try:
            made = api.ask("POST", path, document)
        except ClusterError as error:
            if "failed calling webhook" in str(error):
                return False
            raise
        if "podlane.io/status" in made["metadata"]["annotations"]:
            return True
        raise BenchmarkError("Podlane is installed, and does not inject a Pod that asks for it. See its values.")

    until("the injectors to answer the API server", injects)


def _exists(api: Api, path: str) -> bool:
    try:
        api.get(path)
    except NotThereError:
        return False
    return True


def _remove_namespace(api: Api, name: str) -> None:
    path = f"/api/v1/namespaces/{name}"
    try:
        api.ask("DELETE", path)
    except NotThereError:
        return
    until(f"the namespace {name} to be gone", lambda: not _exists(api, path))
