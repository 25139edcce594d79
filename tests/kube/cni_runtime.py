"""CNI plugins called as a container runtime calls them: github.com/containernetworking/cni, libcni/api.go, is the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from podlane.netns.lab import Host

PLUGINS: Final = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins are."""


class CniFailure(Exception):  # noqa: N818
    """A plugin's error; ``document`` is what it printed."""

    def __init__(self, plugin: str, text: str) -> None:
        super().__init__(f"{plugin}: {text}")
        self.document: dict[str, Any] = json.loads(text)


@dataclass(frozen=True)
class CniRuntime:
    """Plugins run on ``node``, by the first network configuration in ``conf``, and are sought in ``folders``."""

    node: Host
    conf: Path
    folders: tuple[Path, ...]

    def add(self, pod: Host, **arguments: str) -> dict[str, Any]:
        """Make a Pod's network; the result. Raises :class:`CniFailure`; what was made is deleted then."""
        result: dict[str, Any] | None = None
        try:
            for plugin in self._plugins():
                result = json.loads(self._call("ADD", plugin, pod, result, arguments))
        except CniFailure:
            self.delete(pod, None, **arguments)
            raise
        assert result is not None
        return result

    def check(self, pod: Host, result: dict[str, Any], **arguments: str) -> None:
        for plugin in self._plugins():
            self._call("CHECK", plugin, pod, result, arguments)

    def delete(self, pod: Host, result: dict[str, Any] | None, **arguments: str) -> None:
        for plugin in reversed(self._plugins()):
            self._call("DEL", plugin, pod, result, arguments)

    def _plugins(self) -> list[dict[str, Any]]:
        path = min(self.conf.glob("*.conflist"))
        document = json.loads(path.read_text())
        return [
            {**each, "cniVersion": document["cniVersion"], "name": document["name"]} for each in document["plugins"]
        ]

    def _call(
        self, command: str, plugin: dict[str, Any], pod: Host, result: dict[str, Any] | None, arguments: dict[str, str]
    ) -> str:
        program = next(folder / plugin["type"] for folder in self.folders if (folder / plugin["type"]).exists())
        said = {**plugin, **({} if result is None else {"prevResult": result})}
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.namespace.name,
            "CNI_NETNS": str(pod.namespace.path),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": ";".join(["IgnoreUnknown=1", *(f"{name}={value}" for name, value in arguments.items())]),
            "CNI_PATH": ":".join(map(str, self.folders)),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        done = self.node.run([str(program)], stdin=json.dumps(said), env=environment, check=False)
        if done.returncode:
            raise CniFailure(plugin["type"], done.stdout)
        return done.stdout
