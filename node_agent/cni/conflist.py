"""The network configuration list of a node, with ``podlane-cni`` as its last plugin. Pure.

https://www.cni.dev/docs/spec/#section-1-network-configuration-format defines it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from traffic_policy.errors import PodlaneError
from traffic_policy.settings import OnFailure

PLUGIN: Final = "podlane-cni"
TIMEOUT_S: Final = 10
"""Seconds that the plugin waits for the agent's answer, which is there earlier unless the agent hangs."""
_SUFFIXES: Final = (".conf", ".conflist", ".json")


class ConflistError(PodlaneError):
    """The plugin has no place in a node's network configuration; the text has the remedy."""


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """The plugin's configuration; ``exempt`` are namespaces whose Pods never wait."""

    socket: Path
    on_failure: OnFailure
    exempt: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As it stands in the list."""
        return {
            "type": PLUGIN,
            "socket": str(self.socket),
            "timeout": TIMEOUT_S,
            "onFailure": self.on_failure.value,
            "exempt": list(self.exempt),
        }


def network_files(names: Iterable[str]) -> list[str]:
    """Of the files in the folder those that container runtimes read. They use the first one."""
    return sorted(name for name in names if name.endswith(_SUFFIXES))


def with_plugin(text: str, entry: PluginEntry | None) -> str | None:
    """A configuration with this entry as its last plugin, or None if it is so. Without ``entry``: without the plugin.

    Raises :class:`ConflistError`.
    """
    try:
        document = json.loads(text)
    except ValueError:
        raise ConflistError("It is not JSON. The node's CNI plugin may be writing it.") from None
    plugins = document.get("plugins") if isinstance(document, dict) else None
    if not isinstance(plugins, list) or not all(isinstance(each, dict) for each in plugins):
        raise ConflistError("It is no list of plugins. Write the plugin in it as a .conflist, with the key plugins.")
    others = [each for each in plugins if each.get("type") != PLUGIN]
    if not others:
        raise ConflistError("It has no plugins that make a network.")
    wanted = others if entry is None else [*others, entry.document()]
    if wanted == plugins:
        return None
    return json.dumps({**document, "plugins": wanted}, indent=2) + "\n"
