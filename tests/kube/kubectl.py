"""kubectl as a test calls it: with an administrator's credentials, objects in and out as JSON documents."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self


class RefusedError(AssertionError):
    """kubectl failed; the text is what it wrote on standard error, which is what a developer sees."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The command with its credentials and the namespace it works in."""

    program: str
    kubeconfig: Path
    namespace: str = "default"

    def within(self, namespace: str) -> Self:
        """The same, in another namespace."""
        return replace(self, namespace=namespace)

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run it to its success, with the server's warnings on standard error; raises :class:`RefusedError`."""
        done = subprocess.run(
            [self.program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.kubeconfig.parent / 'discovery'}",
             f"--namespace={self.namespace}", *arguments],
            input=stdin or "", capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RefusedError(done.stderr.strip() or done.stdout.strip())
        return done

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run it and give its output; raises :class:`RefusedError`."""
        return self.run(*arguments, stdin=stdin, timeout=timeout).stdout

    def create(self, document: Mapping[str, Any], *options: str) -> dict[str, Any]:
        """Create an object as it is written (no annotation of kubectl's own); gives it as the API server stored it."""
        made: dict[str, Any] = json.loads(self("create", "-f", "-", "-o", "json", *options, stdin=json.dumps(document)))
        return made

    def apply(self, manifest: str, *options: str) -> str:
        """Apply a manifest of any number of documents, merged by the server."""
        return self("apply", "--server-side", "-f", "-", *options, stdin=manifest)

    def apply_document(self, document: Mapping[str, Any]) -> None:
        """Create or change an object by server-side apply, whoever made it."""
        self.apply(json.dumps(document), "--force-conflicts", "--field-manager=kubectl-create")

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self("get", kind, "-o", "json"))["items"]
        return items
