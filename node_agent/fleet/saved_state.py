"""What the control plane desired last, on disk: with it an agent that starts needs no control plane."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from daemon.log import Logger
from fleet_api.desired import DesiredState, FleetPolicy
from node_agent.fleet.private_file import write_private

log = Logger()


class SavedState:
    """A file of two lines: the SHA-256 of the second in hexadecimal, and JSON."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "desired"
        self.trouble = ""
        """Why it could not be written last; empty: it could."""

    def load(self) -> DesiredState | None:
        """None: nothing was written, or it is damaged, which is told; then it is removed. Blocks."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("what the control plane desired last cannot be read", file=str(self._path), error=error.strerror)
            return None
        try:
            return decoded(content)
        except ValueError as error:
            log.error(
                "what the control plane desired last is damaged; it is asked for all of it",
                file=str(self._path), error=str(error),
            )  # fmt: skip
            self._path.unlink(missing_ok=True)
            return None

    def write(self, state: DesiredState) -> None:
        """Blocks. A failure is logged, and kept: the node must have what is desired also with a full disk."""
        try:
            write_private(self._path, encoded(state))
        except OSError as error:
            self.trouble = (
                f"{self._path} cannot be written ({error.strerror}): after a restart without the control plane an "
                "earlier revision is in force. Free the disk."
            )
            log.error("what is desired cannot be kept", file=str(self._path), error=error.strerror)
        else:
            self.trouble = ""


def encoded(state: DesiredState) -> bytes:
    """The content of the file."""
    policies = [
        {
            "name": p.name,
            "revision": p.revision,
            "document": p.document,
            "selector": dict(p.selector),
            "nodes": dict(p.nodes),
        }
        for p in state.policies.values()
    ]
    body = json.dumps({"revision": state.revision, "hash": state.hash.hex(), "policies": policies}).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decoded(content: bytes) -> DesiredState:
    """Raises ValueError for what :func:`encoded` has not made."""
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its digest is another one")
    try:
        document: dict[str, Any] = json.loads(body)
        policies = [
            FleetPolicy(p["name"], p["revision"], p["document"], p["selector"], p.get("nodes", {}))
            for p in document["policies"]
        ]
        state = DesiredState(document["revision"], {p.name: p for p in policies})
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None
    if state.hash.hex() != document.get("hash"):
        raise ValueError("its hash is another one")
    return state
