"""What must outlive the agent: in which network namespaces it works, the class ids that connections have there, and how
the tables of rules were left, so that the next agent sees whether anybody has changed them.

One small file for each, by the namespace's identity, below /run, which a reboot empties together with the namespaces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from daemon.log import Logger
from datapath.netfilter.backend import Seal
from datapath.network_namespace import Identity
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds

log = Logger()


class Earlier(NamedTuple):
    """What an agent has left in a network namespace: ``seal`` is that of its rules. ``node_interface``: the node's end
    of the link, if lanes are there and not at the Pod's."""

    ids: ClassIds
    seal: Seal | None = None
    node_interface: str = ""


class StateFolder:
    """The files. Blocks for as long as writing a small file to memory takes."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`ConfigError` if the folder cannot be made."""
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}. Name another folder by --state.") from None

    def write(self, identity: Identity, name: str, interface: str, earlier: Earlier) -> None:
        """Note what is in force in a namespace. A failure is logged: traffic must not wait for a full disk."""
        seal = None if earlier.seal is None else earlier.seal.to_document()
        place = {"workload": name, "interface": interface, "node_interface": earlier.node_interface}
        document = {**place, **earlier.ids.to_document(), "rules": seal}
        path = self._file(identity)
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps(document))
            os.replace(part, path)
        except OSError as error:
            log.error("the next agent will not know the class ids of this one", workload=name, error=error.strerror)

    def earlier(self, identity: Identity) -> Earlier | None:
        """What an agent has left in a namespace; None: it has not been there."""
        document = self._read(self._file(identity))
        try:
            if document is None:
                return None
            seal, node_interface = _seal(document.get("rules")), str(document.get("node_interface", ""))
            return Earlier(ClassIds.from_document(document), seal, node_interface)
        except (KeyError, TypeError):
            return None

    def forget(self, identity: Identity) -> None:
        """The namespace is gone, or nothing of ours is left in it."""
        self._file(identity).unlink(missing_ok=True)

    def all(self) -> dict[Identity, tuple[str, str]]:
        """The namespaces in which agents have worked, with the interface of each, and the one at the node's end if
        lanes are there, else nothing."""
        found = {}
        for path in self._path.glob("*.json"):
            device, _, inode = path.stem.partition("-")
            document = self._read(path)
            if device.isdecimal() and inode.isdecimal() and document is not None:
                interface, node_interface = (str(document.get(key, "")) for key in ("interface", "node_interface"))
                found[int(device), int(inode)] = interface, node_interface
        return found

    def _file(self, identity: Identity) -> Path:
        return self._path / f"{identity[0]}-{identity[1]}.json"

    @staticmethod
    def _read(path: Path) -> Mapping[str, Any] | None:
        with suppress(OSError, ValueError):
            document = json.loads(path.read_text())
            return document if isinstance(document, dict) else None
        return None


def _seal(document: object) -> Seal | None:
    """None for what another version has written: the rules are read then."""
    with suppress(KeyError, TypeError, ValueError):
        return Seal.from_document(document) if isinstance(document, dict) else None
    return None
