"""Labels of the node, by which the control plane selects policies for it."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, node_of_name
from daemon.kubernetes.reflector import Objects, follow
from daemon.log import Logger
from fleet_api.limits import MAX_NODE_LABELS
from node_agent.broadcast import Broadcast
from node_agent.fleet.private_file import write_private
from traffic_policy.errors import ConfigError

_PATIENCE: Final = 10.0
"""Seconds for which the first connection waits for the labels of a Node that was never seen."""
_LABEL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9./_-]{0,316})=([A-Za-z0-9._/-]{0,253})")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""As GOARCH, which Kubernetes' label has."""

log = Logger()


def parse_node_labels(text: str) -> dict[str, str]:
    """``KEY=VALUE[,KEY=VALUE]``. Raises :class:`ConfigError`."""
    labels = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _LABEL.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"--node-labels: {part[:80]!r} is no label. Write KEY=VALUE, with commas between several."
            )
        labels[match[1]] = match[2]
    return labels


def labels_to_say(own: Mapping[str, str], of_node: Mapping[str, str]) -> dict[str, str]:
    """Those that are given to the agent count more than the Node's. Beyond what the control plane takes, its own and
    Kubernetes' are kept, and the others in their order. Pure."""
    of_machine = {
        "kubernetes.io/hostname": platform.node(),
        "kubernetes.io/os": platform.system().lower(),
        "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
    }
    labels = {**of_machine, **of_node, **own}

    def place(key: str) -> tuple[bool, bool, str]:
        domain = key.partition("/")[0]
        known = domain == "kubernetes.io" or (domain.endswith(".kubernetes.io") and not domain.startswith("feature."))
        return key not in own, not known, key

    return {key: labels[key] for key in sorted(labels, key=place)[:MAX_NODE_LABELS]}


class NodeLabels:
    """As they are now; what the API server said last is kept on disk.

    A node that said fewer labels than it has would lose the policies that are for it.
    """

    def __init__(self, folder: Path, own: Mapping[str, str], *, followed: bool) -> None:
        """``followed``: :meth:`run` will be called. Blocks."""
        self.changed = Broadcast()
        self._path = folder / "node-labels"
        self._own = own
        self._of_node: Mapping[str, str] = self._load() if followed else {}
        self._known = trio.Event()
        if self._of_node or not followed:
            self._known.set()
        self.said: Mapping[str, str] = labels_to_say(own, self._of_node)

    async def known(self) -> None:
        """Wait until they are, but not for ever: the agent may not be allowed to ask."""
        with trio.move_on_after(_PATIENCE):
            await self._known.wait()
        self._known.set()

    async def run(self, api: ApiServer, node: str) -> None:
        """Follow those of a Node, until cancelled."""
        seen: Mapping[str, str] | None = None
        news = Broadcast()

        def saw(nodes: Objects) -> None:
            nonlocal seen
            for found in nodes.values():
                seen = {str(key): str(value) for key, value in (found["labels"] or {}).items()}
                news.tell()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, api, node_of_name(node), saw, _needed)
            while True:
                told = news.next()
                if seen is not None and seen != self._of_node:
                    self._of_node = seen
                    await trio.to_thread.run_sync(self._save, seen)
                    said = labels_to_say(self._own, self._of_node)
                    if said != self.said:
                        self.said = said
                        self.changed.tell()
                if seen is not None:
                    self._known.set()
                await told.wait()

    def _load(self) -> Mapping[str, str]:
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("the labels of the node cannot be read; its API server is asked", reason=str(error))
            return {}
        return found if isinstance(found, dict) else {}

    def _save(self, labels: Mapping[str, str]) -> None:
        try:
            write_private(self._path, json.dumps(labels).encode())
        except OSError as error:
            log.error("the labels of the node cannot be kept", file=str(self._path), error=error.strerror)


def _needed(node: Mapping[str, Any]) -> dict[str, Any]:
    about = node.get("metadata") or {}
    return {"labels": about.get("labels")}
