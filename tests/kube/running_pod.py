"""A Pod of the API server, run on this machine as a node's kubelet runs it: the same containers in the same order.

What decides the order is kubelet's (k8s.io/kubernetes, pkg/kubelet/kuberuntime: SyncPod, killContainer,
terminationOrdering); what a container is, is :mod:`oci`; what starts it, :mod:`runtime`. Things that kubelet does when it
notices something are asked for here: :meth:`RunningPod.restart`, :meth:`~RunningPod.sync`, :meth:`~RunningPod.complete`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from kubectl import Kubectl
from oci import Image, bind, configuration, service_links
from runtime import Container, Runtime, image_folders
from volumes import Volumes

from podlane.netns import Host

_MINIMUM_GRACE: Final = 2.0
"""Seconds that a container gets at least (minimumGracePeriodInSeconds in kuberuntime)."""
_KILL_PATIENCE: Final = 10.0
_SPEC: Final = {
    "containers", "dnsPolicy", "enableServiceLinks", "hostAliases", "initContainers", "nodeName", "preemptionPolicy", "priority",
    "restartPolicy", "schedulerName", "securityContext", "serviceAccount", "serviceAccountName", "shareProcessNamespace",
    "terminationGracePeriodSeconds", "tolerations", "volumes",
}  # fmt: skip
_PATH: Final = f"{Path(sys.prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OURS: Final = {"PATH": _PATH, "PYTHONDONTWRITEBYTECODE": "1"}
"""ENV of the Dockerfile, with the path of the programs here."""
_IMAGE_USER: Final = 65532
"""USER of the Dockerfile."""


def image_of(name: str) -> Image:
    """Podlane's, or an application's: a Debian with usual programs."""
    ours = name.rpartition("/")[2].startswith("podlane:")
    return Image(_OURS, _IMAGE_USER, image_folders()) if ours else Image({"PATH": _PATH}, 0, image_folders())


@dataclass(eq=False)
class RunningPod:
    """A Pod that has been given to this node. ``document`` is exactly what the API server stored."""

    document: dict[str, Any]
    kubectl: Kubectl
    runtime: Runtime
    host: Host
    containers: dict[str, Container] = field(default_factory=dict)
    """The last container of each name that was started."""
    killed: list[str] = field(default_factory=list)
    """Containers that did not end within the grace period."""
    ended: list[str] = field(default_factory=list)
    """Containers in the order in which :meth:`terminate` saw them end."""
    _log: list[Container] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.spec) - _SPEC)
        assert not unknown, f"the Pod's spec has {', '.join(unknown)}, which is not known here"
        folder = self.runtime.folder / self.document["metadata"]["uid"]
        volumes = folder / "volumes"
        volumes.mkdir(parents=True)
        self._volumes = Volumes(self.kubectl, self.runtime, volumes)
        self._hosts = folder / "hosts"

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.document["spec"]
        return spec

    @property
    def grace(self) -> float:
        """The Pod's terminationGracePeriodSeconds."""
        return float(self.spec["terminationGracePeriodSeconds"])

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        """The document's containers by name, in the order in which they are started."""
        return {c["name"]: c for c in (*self.spec.get("initContainers", []), *self.spec["containers"])}

    @property
    def sidecars(self) -> list[str]:
        """Init containers that stay."""
        return [c["name"] for c in self.spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]

    @property
    def applications(self) -> list[str]:
        """The containers that are no init containers."""
        return [c["name"] for c in self.spec["containers"]]

    # --- its life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make sandbox and volumes, then start what is to be started, in order; all containers run afterwards."""
        self._volumes.make(self.document)
        self._write_hosts()
        self._start_sandbox()
        for name, container in self.described.items():
            started = self._start(container)
            if name in self.applications or name in self.sidecars:
                self._settle(started, container)
            else:
                code = started.wait(60)
                assert code == 0, f"init container {name} ended with {code}:\n{started.output}"

    def restart(self, name: str) -> None:
        """Wait for a container's end, and start it anew, as the kubelet does at once for the first time.

        Sidecars are started again whatever the Pod's restartPolicy is; for others it has to be Always.
        """
        assert name in self.sidecars or self.spec["restartPolicy"] == "Always", f"the kubelet would let {name} be"
        self.containers[name].wait(30)
        self._settle(self._start(self.described[name]), self.described[name])

    def sync(self) -> None:
        """Take the Pod from the API server as it is now, and bring its volumes up to date."""
        self.document = self.kubectl.get("pod", self.document["metadata"]["name"])
        self._volumes.refresh(self.document)

    def complete(self, patience: float = 60.0) -> dict[str, int]:
        """Wait until the containers have ended by themselves, then stop the sidecars; gives the exit codes."""
        for name in self.applications:
            self.containers[name].wait(patience)
        return self.terminate()

    def terminate(self) -> dict[str, int]:
        """Stop all containers within the grace period, the sidecars last; gives the exit codes."""
        names = [name for name, container in self.containers.items() if container.running]
        if names:
            deadline = time.monotonic() + self.grace
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(partial(self._stop, deadline), names))
        return {name: container.wait(_KILL_PATIENCE) for name, container in self.containers.items()}

    def describe(self) -> Iterator[tuple[str, str]]:
        """What its containers have written, for the report of a failure."""
        for container in self._log:
            state = "runs" if container.running else f"ended with {container.process.returncode}"
            yield f"container {container.name} ({state})", container.output[-6000:]

    # --- containers ----------------------------------------------------------------------------------------------

    def _start_sandbox(self) -> None:
        """The container that holds the namespaces which the others share."""
        container = {"name": "sandbox", "image": "pause", "command": ["sleep", "infinity"]}
        config = self._configuration(container, {"network": str(self.host.namespace.path)})
        sandbox = self.runtime.start_container("sandbox", {**config, "hostname": self.document["metadata"]["name"]})
        shared = ("ipc", "uts", *(["pid"] if self.spec.get("shareProcessNamespace") else []))
        self._namespaces = {
            "network": str(self.host.namespace.path), **{kind: sandbox.namespace(kind) for kind in shared}
        }  # fmt: skip

    def _start(self, container: Mapping[str, Any]) -> Container:
        mounts = [*self._volumes.mounts(container), bind(self._hosts, "/etc/hosts", read_only=False)]
        config = self._configuration(container, self._namespaces, self._service_links(), mounts)
        started = self.runtime.start_container(container["name"], config)
        self.containers[started.name] = started
        self._log.append(started)
        return started

    def _configuration(
        self,
        container: Mapping[str, Any],
        namespaces: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        mounts: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        return configuration(
            self.spec, container, image_of(container["image"]), environment=environment or {}, mounts=mounts or [],
            namespaces=namespaces, profile=self.runtime.profile,
        )  # fmt: skip

    def _settle(self, started: Container, container: Mapping[str, Any]) -> None:
        """What the kubelet waits for before it starts the next one: the postStart hook, and a sidecar's startup probe."""
        if hook := container.get("lifecycle", {}).get("postStart"):
            done = started.execute(hook["exec"]["command"], timeout=180)
            assert done.returncode == 0, f"postStart of {started.name}: {done.stderr}\n{started.output}"
        if started.name in self.sidecars and (probe := container.get("startupProbe")):
            self._until_started(started, probe)
        if probe := container.get("livenessProbe"):
            done = started.execute(probe["exec"]["command"], timeout=30)
            assert done.returncode == 0, f"liveness of {started.name}: {done.stderr}\n{started.output}"

    @staticmethod
    def _until_started(started: Container, probe: Mapping[str, Any]) -> None:
        said = ""
        for _ in range(probe["failureThreshold"]):
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = started.execute(probe["exec"]["command"], timeout=probe["timeoutSeconds"])
                said = done.stderr
                if done.returncode == 0:
                    return
            try:
                code = started.wait(probe["periodSeconds"])
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"{started.name} ended with {code} before it had started:\n{started.output}")
        raise AssertionError(f"{started.name} did not start: {said}\n{started.output}")

    def _stop(self, deadline: float, name: str) -> None:
        container, hook = self.containers[name], self.described[name].get("lifecycle", {}).get("preStop")
        if hook:
            with contextlib.suppress(subprocess.TimeoutExpired):
                container.execute(hook["exec"]["command"], timeout=_left(deadline))
        for other in self._stopped_before(name):
            _ended_by(self.containers[other], lambda: _left(deadline))
        container.signal("TERM")
        if not _ended_by(container, lambda: max(_left(deadline), _MINIMUM_GRACE)):
            self.killed.append(name)
            container.signal("KILL")
            container.wait(_KILL_PATIENCE)
        self.ended.append(name)

    def _stopped_before(self, name: str) -> list[str]:
        """For a sidecar: all applications, and the sidecars after it."""
        if name not in self.sidecars:
            return []
        return [*self.applications, *self.sidecars[self.sidecars.index(name) + 1 :]]

    # --- what the kubelet adds -----------------------------------------------------------------------------------

    def _write_hosts(self) -> None:
        """/etc/hosts of all containers, with the Pod's hostAliases."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{alias['ip']} {' '.join(alias['hostnames'])}" for alias in self.spec.get("hostAliases", [])]
        self._hosts.write_text("\n".join([*lines, ""]))
        os.chmod(self._hosts, 0o644)

    def _service_links(self) -> dict[str, str]:
        """Of the namespace's Services, unless the Pod does not want them, and of the API server in any case."""
        linked = self.kubectl.list("services") if self.spec.get("enableServiceLinks", True) else []
        return service_links([*linked, self.kubectl.within("default").get("service", "kubernetes")])


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _ended_by(container: Container, patience: Callable[[], float]) -> bool:
    try:
        container.wait(patience())
    except subprocess.TimeoutExpired:
        return False
    return True
