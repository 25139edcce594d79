"""A Pod's volumes as its kubelet makes them, from what the API server has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from downward import AtomicFolder, format_map
from kubectl import Kubectl
from oci import bind
from runtime import Runtime

from traffic_policy.pod.quantities import Quantity

_Document = Mapping[str, Any]


@dataclass(eq=False)
class Volumes:
    """The volumes of one Pod. Raises AssertionError for one that is not known here, RefusedError for what is not there."""

    kubectl: Kubectl
    runtime: Runtime
    folder: Path
    _projected: dict[str, AtomicFolder] = field(default_factory=dict)

    def make(self, pod: _Document) -> None:
        """Make all volumes of a Pod that is about to start."""
        for volume in pod["spec"].get("volumes", []):
            if (asked := volume.get("emptyDir")) is not None:
                self._make_empty(volume["name"], asked)
            else:
                self._projected[volume["name"]] = AtomicFolder(self._path(volume["name"]), self._files(volume, pod))

    def refresh(self, pod: _Document) -> None:
        """Write anew what has changed, as the kubelet does once a minute or so."""
        for volume in pod["spec"].get("volumes", []):
            if volume["name"] in self._projected:
                self._projected[volume["name"]].write_all(self._files(volume, pod))

    def mounts(self, container: _Document) -> list[dict[str, Any]]:
        """A container's volumeMounts."""
        return [self._mount(mount) for mount in container.get("volumeMounts", [])]

    def _mount(self, mount: _Document) -> dict[str, Any]:
        known = {"mountPath", "name", "readOnly", "recursiveReadOnly", "subPath"}
        assert set(mount) <= known, f"the mount of {mount['name']} has what is not known here: {sorted(mount)}"
        source = self._path(mount["name"])
        if "subPath" in mount:
            source /= mount["subPath"]
            self.runtime.run(["mkdir", "-p", str(source)])
        # What has no emptyDir is read-only whatever is said.
        read_only = mount.get("readOnly", False) or mount["name"] in self._projected
        return bind(source, mount["mountPath"], read_only=read_only)

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _make_empty(self, name: str, asked: _Document) -> None:
        path = self._path(name)
        path.mkdir()
        path.chmod(0o777)
        if asked.get("medium") == "Memory":
            size = f",size={int(Quantity.parse(asked['sizeLimit']).value)}" if "sizeLimit" in asked else ""
            self.runtime.run(["mount", "-t", "tmpfs", "-o", f"mode=0777{size}", "tmpfs", str(path)])

    def _files(self, volume: _Document, pod: _Document) -> dict[str, str]:
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        return dict(file for source in sources for file in self._source(source, pod))

    def _source(self, source: _Document, pod: _Document) -> Iterator[tuple[str, str]]:
        makers: dict[str, Callable[[_Document, _Document], Iterator[tuple[str, str]]]] = {
            "downwardAPI": self._downward, "configMap": self._config_map, "serviceAccountToken": self._token,
        }  # fmt: skip
        kind = next(key for key in source if key != "name")
        assert kind in makers, f"a volume of {kind} is not known here"
        return makers[kind](source[kind], pod)

    def _downward(self, asked: _Document, pod: _Document) -> Iterator[tuple[str, str]]:
        metadata = pod["metadata"]
        texts = {f"metadata.{name}": format_map(metadata.get(name, {})) for name in ("annotations", "labels")}
        texts |= {f"metadata.{name}": metadata[name] for name in ("name", "namespace")}
        for item in asked["items"]:
            yield item["path"], texts[item["fieldRef"]["fieldPath"]]

    def _config_map(self, asked: _Document, _: _Document) -> Iterator[tuple[str, str]]:
        data = self.kubectl.get("configmap", asked["name"]).get("data", {})
        items = asked.get("items", [{"key": key, "path": key} for key in data])
        for item in items:
            yield item["path"], data[item["key"]]

    def _token(self, asked: _Document, pod: _Document) -> Iterator[tuple[str, str]]:
        account = pod["spec"]["serviceAccountName"]
        yield asked["path"], self.kubectl("create", "token", account, f"--duration={asked['expirationSeconds']}s")
