"""runc(8), the program that starts containers below containerd and CRI-O, and what it needs around it.

It works in mount and PID namespaces of its own: what is mounted there nobody else sees, and all of it, the containers
too, ends with the block or when the test process does, however that ends.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from waiting import until

from podlane.netns.tools import find_tool, require_tool

_PROFILE: Final = Path("/usr/share/containers/seccomp.json")
"""What RuntimeDefault means to CRI-O and Podman."""
_FOLDER: Final = Path(__file__).parents[2]


class RuntimeMissingError(Exception):
    """What containers need is not here; the text says what, and what to do."""


def image_folders() -> tuple[Path, ...]:
    """Podlane and its Python, as they are on this machine: what the image has in /opt/podlane and /usr."""
    found = [_FOLDER, Path(sys.prefix), Path(sys.base_prefix).resolve()]
    return tuple(f for f in found if not any(f != other and f.is_relative_to(other) for other in found))


@dataclass(eq=False)
class Container:
    """A container that was started; what it writes is in ``log``."""

    name: str
    id: str
    runtime: Runtime
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def status(self) -> dict[str, str]:
        """/proc/PID/status of its first process, in the kernel's words (proc_pid_status(5))."""
        text = self.runtime.run(["cat", f"/proc/{self._state()['pid']}/status"]).stdout
        return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}

    def namespace(self, kind: str) -> str:
        """The path of one of its namespaces, for others to join."""
        return f"/proc/{self._state()['pid']}/ns/{kind}"

    def execute(self, command: Sequence[str], timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end, as exec probes and hooks do; not checked. Raises subprocess.TimeoutExpired."""
        return self.runtime.run([*self.runtime.runc, "exec", self.id, *command], check=False, timeout=timeout)

    def signal(self, name: str) -> None:
        """Send a signal to its first process; one that has ended does not mind."""
        self.runtime.run([*self.runtime.runc, "kill", self.id, name], check=False)

    def wait(self, seconds: float) -> int:
        """Wait for its end; gives the exit code, 128 and the signal's number for a signal. Raises TimeoutExpired."""
        return self.process.wait(seconds)

    def until_written(self, text: str) -> None:
        """Wait until it has written this."""

        def written() -> bool:
            running = self.running  # asked first: what it writes before it ends is still there afterwards
            assert text in self.output or running, f"{self.name} ended without {text!r}; it said:\n{self.output}"
            return text in self.output

        until(f"{text!r} from {self.name}", written)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.runtime.run([*self.runtime.runc, "state", self.id]).stdout)
        return state


@dataclass(eq=False)
class Runtime:
    """Where containers are made and run; ``profile`` is its seccomp profile. Files are below ``folder``."""

    folder: Path
    profile: Mapping[str, Any]
    _outside: subprocess.Popen[str]
    _init: int
    _cgroup: str = f"podlane-{os.getpid()}"
    """In which all containers are: their shares of the CPU are shares of its, as with the kubelet's kubepods."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Make the namespaces, with the mounts and network namespaces of now. Raises RuntimeMissingError."""
        if os.geteuid():
            raise RuntimeMissingError("Containers need root: run the tests by `make test-kube`, or as root.")
        if find_tool("runc") is None or not _PROFILE.exists():
            raise RuntimeMissingError(
                "runc or its seccomp profile is not installed. Install them: apt-get install runc golang-github-containers-common"
            )
        layers = folder / "layers"
        layers.mkdir()
        # bash waits for children of others too, and ends when nobody holds the other end of the pipe any more.
        outside = subprocess.Popen(
            [require_tool("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", f"mount -t tmpfs tmpfs '{layers}' && echo ready && read -r"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert outside.stdout is not None
        assert outside.stdout.readline() == "ready\n", "no mount and PID namespaces can be made here"
        init = int(Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text())
        return cls(folder, json.loads(_PROFILE.read_text()), outside, init)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for stream in (self._outside.stdin, self._outside.stdout):
            assert stream is not None
            stream.close()
        self._outside.wait(10)
        for folder in (*Path("/sys/fs/cgroup").glob(self._cgroup), *Path("/sys/fs/cgroup").glob(f"*/{self._cgroup}")):
            for container in folder.glob(f"{self._cgroup}-*"):
                container.rmdir()  # those that were killed with the namespaces
            folder.rmdir()

    @property
    def runc(self) -> list[str]:
        return ["runc", "--root", str(self.folder / "runc")]

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespaces to its end."""
        done = subprocess.run(
            self._inside(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not (check and done.returncode), f"{' '.join(argv)} ended with {done.returncode}: {done.stderr}"
        return done

    def start_container(self, name: str, config: Mapping[str, Any]) -> Container:
        """Start a container in a root file system of its own, which is this machine's until something is written."""
        identity = f"{self._cgroup}-{next(self._numbers)}-{name}"
        bundle, layer = self.folder / identity, self.folder / "layers" / identity
        bundle.mkdir()
        root = layer / "root"
        options = f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work"
        self.run(["mkdir", "-p", str(root), f"{layer}/upper", f"{layer}/work"])
        self.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])
        # runc gives a tmpfs the mode of the folder that it covers.
        covered = [mount["destination"] for mount in config["mounts"] if "mode=755" in mount["options"]]
        self.run(["chmod", "755", *(f"{root}{folder}" for folder in covered)])
        whole = {
            **config,
            "root": {**config["root"], "path": str(root)},
            "linux": {**config["linux"], "cgroupsPath": f"/{self._cgroup}/{identity}"},
        }
        (bundle / "config.json").write_text(json.dumps(whole))
        log, pid = bundle / "log", bundle / "pid"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                self._inside([*self.runc, "run", "--bundle", str(bundle), "--pid-file", str(pid), identity]),
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
        started = Container(name, identity, self, process, log)
        until(f"container {name} to exist", lambda: pid.exists() or not started.running)
        return started

    def _inside(self, argv: Sequence[str]) -> list[str]:
        program = find_tool(argv[0]) or argv[0]
        return [require_tool("nsenter"), f"--target={self._init}", "--mount", "--pid", "--", program, *argv[1:]]
