"""A container engine, and containers in it as a kubelet would start them from a Pod's manifest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from waiting import until

from podlane.netns import Host, Lab
from podlane.netns.lab import VethPair
from podlane.netns.namespace import Namespace
from podlane.netns.tools import ip
from traffic_policy.pod.quantities import Quantity

ROOT = Path(__file__).parents[2]
IMPOSSIBLE = 77
"""Exit code of tools/container-engine where no engine can run."""
BASE = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
BUILD_SECONDS = 900


class NoEngineError(Exception):
    """No engine can run here; the text says why."""


@dataclass(slots=True)
class Engine:
    """A running engine. It ends with the block, or when this process does: it holds the other end of a pipe."""

    process: subprocess.Popen[str]
    environment: dict[str, str]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def docker(self, *arguments: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the engine's client; fails with what it said."""
        done = subprocess.run(
            ["docker", *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def build(self, name: str, *options: str) -> str:
        """Build the Dockerfile as it is, or the one that options name. RUN steps use this machine's network, for packages."""
        began = time.monotonic()
        # Not --quiet: what a failed step said is in the failure.
        self.docker("build", "--network", "host", "--tag", name, *options, str(ROOT), timeout=BUILD_SECONDS)
        print(f"built in {time.monotonic() - began:.0f} s")
        return name

    def run(self, image: str, *command: str, options: Sequence[str] = (), check: bool = True) -> str:
        """Run a program of an image, without network, to its end; gives what it wrote."""
        done = self.docker(
            *("run", "--rm", "--network", "none", *options),
            *(("--entrypoint", command[0], image, *command[1:]) if command else (image,)),
            check=check,
        )
        return done.stdout

    def inspect(self, kind: str, name: str, template: str) -> str:
        return self.docker(kind, "inspect", "--format", template, name).stdout.strip()


def start_engine() -> Engine:
    """Start it and wait until it answers; raises :class:`NoEngineError` where it cannot run."""
    process = subprocess.Popen(
        [ROOT / "tools/container-engine", "sh", "-c", 'echo "engine $DOCKER_HOST $PATH"; exec cat'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    # tools/system-packages may say what it installs, before.
    for line in process.stdout:
        if line.startswith("engine "):
            _, host, path = line.split(maxsplit=2)
            return Engine(process, {**os.environ, "DOCKER_HOST": host, "PATH": path.strip()})
    said = process.communicate()[1]
    if process.returncode == IMPOSSIBLE:
        raise NoEngineError(said.strip())
    raise AssertionError(f"tools/container-engine ended with {process.returncode}: {said}")


@dataclass(slots=True)
class Container:
    """A started container, known by its id."""

    engine: Engine
    id: str

    @property
    def pid(self) -> int:
        return int(self.engine.inspect("container", self.id, "{{.State.Pid}}"))

    @property
    def log(self) -> str:
        done = self.engine.docker("logs", self.id)
        return done.stdout + done.stderr

    @property
    def running(self) -> bool:
        return self.engine.inspect("container", self.id, "{{.State.Running}}") == "true"

    def entries(self) -> list[dict[str, Any]]:
        """The log's lines, which are JSON."""
        return [json.loads(line) for line in self.log.splitlines()]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As an exec probe or a hook does; not checked."""
        return self.engine.docker("exec", self.id, *command, check=False)

    def stop(self, patience: int = 30) -> int:
        """SIGTERM, and SIGKILL after the grace period; gives the exit code."""
        self.engine.docker("stop", "--time", str(patience), self.id, timeout=patience + 30)
        return int(self.engine.inspect("container", self.id, "{{.State.ExitCode}}"))

    def kill(self) -> None:
        self.engine.docker("kill", self.id)

    def until_logged(self, event: str) -> dict[str, Any]:
        """Wait for a line of the log; fails with the log when the container ends first."""

        def found() -> dict[str, Any] | None:
            running = self.running  # asked first: what it logs before it ends is still there afterwards
            entry = next((e for e in self.entries() if e["event"] == event), None)
            if entry is None and not running:
                raise AssertionError(f"the container ended without {event!r}; it said:\n{self.log}")
            return entry

        return until(event, found)

    def seconds_until(self, event: str) -> float:
        """From the start of the process, its set-up by the engine included, to a line of the log."""
        # proc_pid_stat(5): field 22 is in clock ticks since boot; the name before it may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return datetime.fromisoformat(self.until_logged(event)["timestamp"]).timestamp() - boot - started


@dataclass(slots=True)
class Pod:
    """A network namespace that containers share, with a node and a server behind it."""

    engine: Engine
    host: Host
    node: Host
    server: Host
    server_link: VethPair
    sandbox: Container
    folder: Path
    _containers: list[Container] = field(default_factory=list)

    @classmethod
    def create(cls, engine: Engine, lab: Lab, image: str) -> Self:
        """The namespace is the sandbox container's, as in Kubernetes; the lab's links lead into it."""
        ipv6 = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--sysctl", "net.ipv6.conf.default.disable_ipv6=0")
        sandbox = engine.docker(
            "run", "--detach", "--network", "none", *ipv6, "--entrypoint", "sleep", image, "infinity"
        )  # fmt: skip
        container = Container(engine, sandbox.stdout.strip())
        name = f"image-{os.getpid()}-pod"
        ip("netns", "attach", name, str(container.pid))
        host, node, server = Host("pod", Namespace(name)), lab.host("node", forward=True), lab.host("server")
        lab.link(host, "eth0", node, "pod0", gateway=True)
        link = lab.link(server, "eth0", node, "server0", gateway=True)
        return cls(engine, host, node, server, link, container, Path(tempfile.mkdtemp(prefix="podlane-pod-")))

    def start(self, manifest: Mapping[str, Any], container: Mapping[str, Any]) -> Container:
        """Start one of a Pod's containers as its manifest says: user, capabilities, volumes, limits."""
        return self.start_with(
            *self._security(container["securityContext"]),
            *self._limits(container.get("resources", {}).get("limits", {})),
            *(part for v in container.get("env", []) for part in ("--env", f"{v['name']}={v['value']}")),
            *(part for m in container["volumeMounts"] for part in self._mount(manifest, m)),
            image=container["image"],
            command=container["command"] + container.get("args", []),
        )

    def start_with(self, *options: str, image: str, command: Sequence[str]) -> Container:
        """Start a container in the Pod's network namespace."""
        arguments = ("run", "--detach", "--network", f"container:{self.sandbox.id}", *options)
        done = self.engine.docker(*arguments, "--entrypoint", command[0], image, *command[1:])
        started = Container(self.engine, done.stdout.strip())
        self._containers.append(started)
        return started

    def remove(self) -> None:
        ids = [container.id for container in (*self._containers, self.sandbox)]
        self.engine.docker("rm", "--force", "--volumes", *ids)
        self.host.namespace.delete()
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)

    @staticmethod
    def _security(context: Mapping[str, Any]) -> list[str]:
        options = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
        for kind in ("drop", "add"):
            options += [part for name in context["capabilities"].get(kind, []) for part in (f"--cap-{kind}", name)]
        if context["readOnlyRootFilesystem"]:
            options += ["--read-only"]
        if not context["allowPrivilegeEscalation"]:
            options += ["--security-opt", "no-new-privileges"]
        # RuntimeDefault is the profile that the engine applies by itself.
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not context.get("privileged")
        return options

    @staticmethod
    def _limits(limits: Mapping[str, str]) -> list[str]:
        options = []
        if "memory" in limits:
            options += ["--memory", str(int(Quantity.parse(limits["memory"]).value))]
        if "cpu" in limits:
            options += ["--cpus", str(float(Quantity.parse(limits["cpu"]).value))]
        return options

    def _mount(self, manifest: Mapping[str, Any], mount: Mapping[str, Any]) -> list[str]:
        volume = next(v for v in manifest["spec"]["volumes"] if v["name"] == mount["name"])
        if "emptyDir" in volume:
            return ["--mount", f"type=tmpfs,destination={mount['mountPath']},tmpfs-mode=0777"]
        source = self.folder / volume["name"]
        source.mkdir(exist_ok=True)
        for item in volume["downwardAPI"]["items"]:
            assert item["fieldRef"]["fieldPath"] == "metadata.annotations"
            # As the kubelet does (k8s.io/kubernetes/pkg/fieldpath FormatMap): key="value", quoted as Go quotes, sorted.
            annotations = sorted(manifest["metadata"]["annotations"].items())
            (source / item["path"]).write_text("\n".join(f"{key}={json.dumps(value)}" for key, value in annotations))
        return ["--volume", f"{source}:{mount['mountPath']}:ro"]
