"""The chart, installed by helm into the real API server, and its injectors, run here as its Deployment says.

There are no nodes to run the Deployment's Pods. So each injector is a process of this machine with the environment of the
Deployment's container and the rights of its ServiceAccount. What a node's kube-proxy does with the Service is done by
:class:`ServiceAddress` at the Service's own address and port: what the chart made is not changed, and the API server asks
and verifies as in a cluster.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.request import urlopen

from cluster import Cluster
from daemons import Daemon, end_all, launch
from kubectl import Kubectl, RefusedError
from service_address import ServiceAddress
from waiting import until

CHART: Final = Path(__file__).parents[2] / "charts" / "podlane"
_SERVICE_PORT: Final = 443
"""The chart's."""
LINGERING: Final = "--linger=1s"
"""An option of injectors that are to end as in a cluster: connections that API servers keep are used for a while."""
ATTENTIVE: Final = "--ca-overlap=2500ms"
"""An option of injectors that look at their certificates every 0.5 s, ten times as often as they usually do."""
PROBE: Final[dict[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe", "labels": {"podlane.io/inject": "true"}, "annotations": {"podlane.io/egress-bandwidth": "1M"}},
    "spec": {"containers": [{"name": "app", "image": "registry.example.com/app:1"}]},
}  # fmt: skip


@dataclass(eq=False)
class Injector:
    """A running ``podlane injector``."""

    daemon: Daemon
    port: int
    metrics_port: int

    def answer(self, path: str) -> str:
        """What the health and metrics server says."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def ready(self) -> bool:
        try:
            return bool(self.answer("/readyz"))
        except OSError:
            assert self.daemon.running(), self.daemon.output
            return False


@dataclass(eq=False)
class Release:
    """An installed chart. ``daemons`` is where its injectors are added, to be shown when a test fails and ended with it."""

    cluster: Cluster
    namespace: str
    address: ServiceAddress
    daemons: list[Daemon]
    name: str = "podlane"
    revision: str = ""
    _launched: list[Daemon] = field(default_factory=list)
    _elsewhere: set[str] = field(default_factory=set)
    _serving: tuple[Injector, ...] = ()
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def kubectl(self) -> Kubectl:
        return self.cluster.kubectl.within(self.namespace)

    @property
    def service(self) -> str:
        return f"{self.name}-injector"

    @property
    def configuration(self) -> str:
        """The name of both webhook configurations."""
        return self.environment()["PODLANE_INJECTOR_MUTATING_WEBHOOK"]

    def install(self, values: Mapping[str, Any], *options: str) -> str:
        """Install or upgrade it; gives what helm printed. :attr:`address` is then where the Service is."""
        path = self.cluster.folder / f"{self.namespace}-values.yaml"
        path.write_text(json.dumps(values))
        for kind in tuple(self._elsewhere):
            self.ask_at(kind, _SERVICE_PORT)  # helm must find it as helm left it
        # Without being told to forget them, helm takes empty values for "those of the last time".
        said = self.helm(
            "upgrade", "--install", self.name, str(CHART), "--create-namespace", "--reset-values", f"--values={path}",
            *options,
        )  # fmt: skip
        self.follow_service()
        return said

    def follow_service(self) -> None:
        """Be where the Service is, which a chart that is installed anew has at another address."""
        self.address.listen(self.kubectl.get("service", self.service)["spec"]["clusterIP"], _SERVICE_PORT)

    def ask_at(self, kind: str, port: int) -> None:
        """Change the port of the Service at which the webhooks of a configuration ask."""
        webhooks = self.kubectl.get(kind, self.configuration)["webhooks"]
        place = "/webhooks/{}/clientConfig/service/port"
        self._patch(kind, self.configuration, [
            {"op": "replace", "path": place.format(n), "value": port} for n in range(len(webhooks))
        ])  # fmt: skip
        (self._elsewhere.discard if port == _SERVICE_PORT else self._elsewhere.add)(kind)

    def _patch(self, kind: str, name: str, operations: Sequence[Mapping[str, Any]]) -> None:
        self.kubectl("patch", kind, name, "--type=json", "-p", json.dumps(operations))

    def helm(self, *arguments: str) -> str:
        """Run helm as the cluster's administrator; raises :class:`RefusedError`."""
        home = self.cluster.folder / "helm"
        done = subprocess.run(
            [self.cluster.tools.helm, f"--kubeconfig={self.cluster.kubectl.kubeconfig}", f"--namespace={self.namespace}", *arguments],
            env={**os.environ, "HELM_CACHE_HOME": str(home), "HELM_CONFIG_HOME": str(home), "HELM_DATA_HOME": str(home)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RefusedError(done.stderr)
        return done.stdout

    def environment(self) -> dict[str, str]:
        """What the Deployment gives its container."""
        deployment = self.kubectl.get("deployment", f"{self.name}-injector")
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        assert container["args"] == ["injector"]
        return {variable["name"]: variable.get("value", "") for variable in container["env"]}

    def start(self, *options: str) -> Injector:
        """Start an injector and wait until it takes requests; it is no endpoint yet."""
        (injector,) = self.start_together(1, *options)
        return injector

    def start_together(self, number: int, *options: str) -> list[Injector]:
        """Start so many injectors at the same moment, and wait until they take requests."""
        pipes = [os.pipe() for _ in range(number)]
        daemons = [self.launch(f"--ready-fd={theirs}", *options, pass_fds=[theirs]) for _, theirs in pipes]
        injectors = []
        for (ready, theirs), daemon in zip(pipes, daemons, strict=True):
            os.close(theirs)
            with os.fdopen(ready) as pipe:
                line = pipe.readline()
            assert line, f"the injector ended with {daemon.process.wait(10)}:\n{daemon.output}"
            injectors.append(Injector(daemon, *map(int, line.split())))
        return injectors

    @property
    def injectors(self) -> list[Injector]:
        """Those that are the Service's endpoints."""
        return list(self._serving)

    def launch(self, *options: str, **popen: Any) -> Daemon:
        """Start an injector with what the Deployment gives it; ``popen`` are options of subprocess.Popen."""
        kubeconfig = self.kubeconfig()
        argv = [
            sys.executable, "-m", "podlane", "injector", "--address=127.0.0.1", "--port=0", "--metrics-port=0",
            f"--kubeconfig={kubeconfig}", "--linger=0s", *options,
        ]  # fmt: skip
        daemon = launch(f"{self.service}-{next(self._numbers)}", argv, self.cluster.folder, self.environment(), **popen)
        self.daemons.append(daemon)
        self._launched.append(daemon)
        return daemon

    def kubeconfig(self) -> Path:
        """A kubeconfig file with the rights of the chart's ServiceAccount."""
        deployment = self.kubectl.get("deployment", f"{self.name}-injector")
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        return self.cluster.service_account_kubeconfig(self.namespace, account)

    def roll(self) -> None:
        """What the Deployment does when its template has changed: injectors with what it says now, then the old ones end.

        For the old ones to end without a loss they have to be started as :data:`LINGERING`.
        """
        old = [daemon for daemon in self._launched if daemon.running()]
        self.serve(self.start_together(2, LINGERING))
        for daemon in old:
            daemon.process.terminate()  # all of them, so that they linger together
        end_all(old)

    def serve(self, injectors: Sequence[Injector]) -> None:
        """Make these the Service's endpoints, and wait until the API server gets its Pods injected by them."""
        for injector in injectors:
            until("the injector to be ready", injector.ready)
        self.address.endpoints = tuple(i.port for i in injectors)
        self._serving = tuple(injectors)
        # It learns of a changed caBundle by a watch of its own.
        until("the API server to trust the injector", self._injects)

    def _injects(self) -> bool:
        try:
            made = self.cluster.kubectl.create(self._probe(), "--dry-run=server")
        except RefusedError as refused:
            if "x509" in str(refused) or "failed calling webhook" in str(refused):
                return False
            raise
        return "podlane.io/status" in made["metadata"]["annotations"]

    def _probe(self) -> dict[str, Any]:
        labels = {**PROBE["metadata"]["labels"], **({"podlane.io/rev": self.revision} if self.revision else {})}
        return {**PROBE, "metadata": {**PROBE["metadata"], "labels": labels}}

    def stop(self) -> None:
        """End all injectors, none being an endpoint any more."""
        self.address.endpoints = ()
        end_all(self._launched)
        self._launched.clear()

    @contextmanager
    def alone(self) -> Iterator[Self]:
        """The chart without injectors, to do anything to; afterwards all is as it was before."""
        self.stop()
        try:
            yield self
        finally:
            self.stop()
            self.install({})
            self.serve(self.start_together(2))

    def remove(self) -> None:
        """Uninstall the chart, then end the injectors."""
        self.helm("uninstall", self.name)
        self.stop()
