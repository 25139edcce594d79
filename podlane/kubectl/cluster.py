"""Asks a cluster by kubectl."""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from podlane.errors import ToolMissingError
from podlane.kubectl.errors import ClusterError, ForbiddenError, NotThereError

_ANSWER_S: Final = 30.0
_FORWARDED_S: Final = 15.0
"""Seconds for the API server's answer, and until a port is forwarded."""
_FORWARDING: Final = re.compile(r"Forwarding from \S+:(\d+) ->")
_MAY_NOT: Final = re.compile(
    r'cannot (?P<verb>\w+) resource "(?P<what>[^"]+)" in API group "[^"]*"(?: in the namespace "(?P<where>[^"]+)")?'
)
"""forbiddenMessage() of k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, as kubectl finds it with these ``flags`` (--kubeconfig, --context)."""

    flags: tuple[str, ...] = ()
    program: str = "kubectl"

    def get(self, *words: str, namespace: str | None = None) -> Any:
        """The document of ``kubectl get WORDS``; ``namespace`` None: that of the context.

        Raises :class:`ClusterError` and its kinds, :class:`~podlane.errors.ToolMissingError`.
        """
        try:
            done = subprocess.run(
                self._command("get", *words, "--output=json", namespace=namespace),
                capture_output=True, text=True, timeout=_ANSWER_S, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise self._no_kubectl() from None
        except subprocess.TimeoutExpired:
            raise ClusterError(f"The API server has not answered for {_ANSWER_S:.0f} s.") from None
        if done.returncode:
            raise error_of(done.stderr)
        return json.loads(done.stdout)

    @contextmanager
    def forwarded(self, namespace: str, pod: str, port: int) -> Iterator[int]:
        """A local port that leads to one of a Pod's during the block. Raises as :meth:`get`."""
        command = self._command("port-forward", f"pod/{pod}", f":{port}", "--address=127.0.0.1", namespace=namespace)
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise self._no_kubectl() from None
        with process:
            try:
                yield _forwarded_port(process, f"{namespace}/{pod}")
            finally:
                process.kill()

    def _command(self, *words: str, namespace: str | None) -> list[str]:
        where = () if namespace is None else (f"--namespace={namespace}",)
        return [self.program, *self.flags, *where, *words]

    def _no_kubectl(self) -> ToolMissingError:
        return ToolMissingError(
            f"There is no {self.program} in PATH, by which the cluster is asked. Install it: "
            "https://kubernetes.io/docs/tasks/tools/"
        )


def _forwarded_port(process: subprocess.Popen[str], pod: str) -> int:
    assert process.stdout is not None
    assert process.stderr is not None
    due = time.monotonic() + _FORWARDED_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(max(0.0, due - time.monotonic())):
            if found := _FORWARDING.search(process.stdout.readline()):
                return int(found[1])
            error = error_of(process.stderr.read())
            # It was there when it was found: another agent may take its place.
            raise ClusterError(f"{pod} has just ended.") if isinstance(error, NotThereError) else error
    raise ClusterError(f"No port of {pod} was forwarded within {_FORWARDED_S:.0f} s: its kubelet does not answer.")


def error_of(said: str) -> ClusterError:
    """The exception for what kubectl has written on standard error."""
    lines = [line for line in said.strip().splitlines() if not line.startswith(("E0", "E1", "Warning:"))]
    text = (lines[-1] if lines else said.strip() or "kubectl failed without a word.").removeprefix("error: ")
    if "forbidden" in said.lower() and (found := _MAY_NOT.search(said)) is not None:
        verb, what, where = found["verb"], found["what"], found["where"]
        place = f" in the namespace {where}" if where else " in all namespaces" if what == "pods" else ""
        check = f"kubectl auth can-i {verb} {what}" + (f" -n {where}" if where else " -A" if what == "pods" else "")
        return ForbiddenError(
            f"You may not {verb} {what}{place}. Have your cluster's administrator allow it (RBAC); `{check}` says "
            "whether it is."
        )
    if "doesn't have a resource type" in said:
        return NotThereError(text)
    if "(NotFound)" in said:
        return NotThereError(text.partition("(NotFound): ")[2] or text)
    return ClusterError(text)
