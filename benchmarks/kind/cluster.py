"""A cluster as the benchmark reaches it: by kubectl and helm, and its API by ``kubectl proxy``.

That knows every way to log in which a kubeconfig can ask for.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.errors import BenchmarkError, MeasurementError
from podlane.demo.programs import guarded

PATIENCE: Final = 180.0
"""Seconds for something to come or go on a busy machine."""
_PATIENCE: Final = 60.0
"""Seconds for one question."""
_LOOK_AGAIN: Final = 0.2
"""Seconds between two looks."""
_KIND: Final = "kind-"
"""What kind's contexts begin with."""


class ClusterError(BenchmarkError):
    """The cluster cannot be reached, or refused something; the text has its words."""


class NotThereError(ClusterError):
    """The object does not exist."""


class _LocalConnection(http.client.HTTPConnection):
    """HTTP by a socket in the file system."""

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("localhost", timeout=patience)  # the only host name that kubectl proxy accepts
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Api:
    """The cluster's API through ``kubectl proxy``, which listens at a socket in the file system. Any thread may ask."""

    path: Path

    def ask(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        """Send a document and give the answer's. Raises :class:`ClusterError`."""
        answer: dict[str, Any] = json.loads(self._read(method, path, document))
        return answer

    def get(self, path: str) -> dict[str, Any]:
        """An object or a list. Raises :class:`ClusterError`, for what is not there :class:`NotThereError`."""
        return self.ask("GET", path)

    def text(self, path: str) -> str:
        """What is no JSON, such as metrics. Raises :class:`ClusterError`."""
        return self._read("GET", path, None)

    def watch(self, path: str, connection: http.client.HTTPConnection) -> Iterator[dict[str, Any]]:
        """Events of a list, until the server or the connection ends. Raises :class:`ClusterError`."""
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise _refusal(answer.status, answer.read().decode(errors="replace"))
        while line := answer.readline():
            yield json.loads(line)

    def connect(self, patience: float = _PATIENCE) -> http.client.HTTPConnection:
        """A connection of one's own."""
        return _LocalConnection(self.path, patience)

    def _read(self, method: str, path: str, document: object) -> str:
        body = None if document is None else json.dumps(document)
        with closing(self.connect()) as connection:
            try:
                connection.request(method, path, body, {"content-type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                raise ClusterError(f"The API server did not answer {method} {path}: {error}.") from None
        if answer.status >= http.client.BAD_REQUEST:
            raise _refusal(answer.status, text)
        return text


def _refusal(status: int, text: str) -> ClusterError:
    try:
        words = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        words = text.strip()[-400:]
    kind = NotThereError if status == http.client.NOT_FOUND else ClusterError
    return kind(f"The API server answers {status}: {words}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The programs, and the context of the kubeconfig that they use."""

    kubectl: str
    helm: str
    context: str

    @classmethod
    def find(cls, context: str | None) -> Cluster:
        """The cluster of a context, or else of kind. Raises :class:`BenchmarkError`, with what to do, for none."""
        kubectl, helm = (shutil.which(name) for name in ("kubectl", "helm"))
        if kubectl is None or helm is None:
            missing = "kubectl" if kubectl is None else "helm"
            raise BenchmarkError(
                f"{missing} is not on PATH. Install it, or run this by `make bench-kind`, which finds or builds it."
            )
        if context is None:
            done = subprocess.run([kubectl, "config", "current-context"], capture_output=True, text=True, check=False)
            context = done.stdout.strip()
            if done.returncode or not context:
                raise BenchmarkError("There is no cluster. Make one: make kind-up. Or name one of yours by --context.")
            if not context.startswith(_KIND):
                raise BenchmarkError(
                    f"The current context {context} is not kind's, and is left alone unless you name it: "
                    f"--context {context}. Or make a cluster of kind: make kind-up."
                )
        return cls(kubectl, helm, context)

    @property
    def is_kind(self) -> bool:
        """Whether its nodes are containers of this machine."""
        return self.context.startswith(_KIND)

    def run(self, *arguments: str, stdin: str = "", patience: float = _PATIENCE) -> str:
        """kubectl, to its success; gives what it printed. Raises :class:`ClusterError` with what it said."""
        return self._done([self.kubectl, f"--context={self.context}", *arguments], stdin, patience)

    def run_helm(self, *arguments: str, patience: float) -> str:
        """helm, to its success. Raises :class:`ClusterError` with what it said."""
        return self._done([self.helm, f"--kube-context={self.context}", *arguments], "", patience)

    def execute(self, namespace: str, pod: str, container: str, argv: Sequence[str], patience: float) -> str:
        """Run a program in a container, to its success. Raises :class:`MeasurementError` with what it said."""
        try:
            return self.run(*_exec(namespace, pod, container, argv), patience=patience)
        except ClusterError as error:
            raise MeasurementError(f"{argv[0]} in {pod}: {error}") from None

    @contextmanager
    def executing(
        self, namespace: str, pod: str, container: str, argv: Sequence[str]
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a program in a container beside the block; at its end kubectl ends, and the program is on its own."""
        command = [self.kubectl, f"--context={self.context}", *_exec(namespace, pod, container, argv)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @contextmanager
    def api(self) -> Iterator[Api]:
        """The API, for the block. Raises :class:`ClusterError` when the cluster does not answer."""
        # Who reaches the proxy is the cluster's administrator: nobody else may enter the folder, and at a port anybody
        # on this machine would.
        with TemporaryDirectory(prefix="podlane-bench-") as folder:
            path = Path(folder) / "api"
            process = subprocess.Popen(
                guarded([self.kubectl, f"--context={self.context}", "proxy", f"--unix-socket={path}"]),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,  # Ctrl-C is for this process, which tidies up through it
            )  # fmt: skip
            try:
                assert process.stdout is not None
                if not process.stdout.readline():  # Starting to serve on PATH
                    raise ClusterError(f"kubectl proxy: {process.communicate()[1].strip()}")
                api = Api(path)
                try:
                    api.get("/version")
                except ClusterError as error:
                    remedy = "make kind-up" if self.is_kind else f"kubectl --context={self.context} version"
                    raise ClusterError(f"The cluster {self.context} does not answer. Try: {remedy}. {error}") from None
                yield api
            finally:
                process.terminate()
                process.communicate()

    def _done(self, command: Sequence[str], stdin: str, patience: float) -> str:
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=patience, check=False)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"`{' '.join(command)}` did not end within {patience:g} s.") from None
        if done.returncode:
            raise ClusterError(done.stderr.strip()[-1500:] or f"`{' '.join(command)}` failed ({done.returncode}).")
        return done.stdout


def _exec(namespace: str, pod: str, container: str, argv: Sequence[str]) -> list[str]:
    return ["exec", f"--namespace={namespace}", pod, f"--container={container}", "--", *argv]


def until(what: str, ask: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Ask until the answer is yes. Raises :class:`ClusterError` after ``patience`` seconds, naming ``what``."""
    give_up = time.monotonic() + patience
    while not ask():
        if time.monotonic() > give_up:
            raise ClusterError(f"Waited {patience:g} s in vain for {what}.")
        threading.Event().wait(_LOOK_AGAIN)  # what is asked cannot notify
