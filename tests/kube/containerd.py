"""A containerd of the test's own, whose sandboxes are made by CRI as a kubelet has them made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from oci import MACHINES
from waiting import until

from podlane.netns.lab import Host

_IMAGE: Final = "docker.io/podlane-test/pause:1"
_PAUSE: Final = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


def field(number: int, value: bytes | str) -> bytes:
    """A field of a protobuf message that has a length (https://protobuf.dev/programming-guides/encoding)."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@dataclass(frozen=True)
class Containerd:
    """Serves CRI (k8s.io/cri-api, pkg/apis/runtime/v1/api.proto) at a socket."""

    socket: Path

    def run_sandbox(self, known: Mapping[str, str]) -> str:
        """Make the sandbox of a Pod that is known by the variables of CNI_ARGS; its ID. Raises grpc.RpcError."""
        names = ("K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_NAMESPACE")
        metadata = b"".join(field(i, known[name]) for i, name in enumerate(names, 1))
        linux = field(1, f"/podlane-cri-{os.getpid()}")
        config = field(1, metadata) + field(2, "pod") + field(3, str(self.socket.parent / "logs")) + field(8, linux)
        answer = self._call("RunPodSandbox", field(1, config))
        return answer[2 : 2 + answer[1]].decode()

    def remove_sandbox(self, sandbox: str) -> None:
        for call in ("StopPodSandbox", "RemovePodSandbox"):
            self._call(call, field(1, sandbox))

    def _call(self, name: str, request: bytes) -> bytes:
        with grpc.insecure_channel(f"unix://{self.socket}") as channel:
            answer: bytes = channel.unary_unary(f"/runtime.v1.RuntimeService/{name}")(request, timeout=60)
            return answer


@contextmanager
def containerd(node: Host, folder: Path, conf: Path, programs: Path) -> Iterator[Containerd]:
    """Runs on ``node``, with its files in ``folder``; network configuration and CNI plugins are in the others."""
    made = Containerd(folder / "cri.sock")
    settings = folder / "config.toml"
    settings.write_text(f"""
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{made.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{_IMAGE}"
disable_apparmor = true
disable_cgroup = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{programs}"
conf_dir = "{conf}"
""")
    (folder / "pause.c").write_text(_PAUSE)
    subprocess.run(["gcc", "-static", "-o", folder / "pause", folder / "pause.c"], check=True)
    (folder / "image.tar").write_bytes(_image((folder / "pause").read_bytes()))
    log = folder / "containerd.log"
    with log.open("wb") as stream:
        process = node.popen(["containerd", "--config", str(settings)], stdout=stream, stderr=stream)
    try:
        until("containerd's socket", made.socket.exists)
        load = [
            "ctr",
            "--address",
            str(made.socket),
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
        ]
        subprocess.run([*load, str(folder / "image.tar")], check=True, timeout=60)
        yield made
    finally:
        process.terminate()
        process.wait(30)
        print(log.read_text()[-4000:])


def _image(program: bytes) -> bytes:
    """An image of one static program, as `docker save` writes it."""
    layer = _archive({"pause": program})
    machine = MACHINES[os.uname().machine][0]
    layers = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = json.dumps(
        {"architecture": machine, "os": "linux", "config": {"Entrypoint": ["/pause"]}, "rootfs": layers}
    )
    manifest = [{"Config": "config.json", "RepoTags": [_IMAGE], "Layers": ["layer.tar"]}]
    files = {"manifest.json": json.dumps(manifest).encode(), "config.json": config.encode(), "layer.tar": layer}
    return _archive(files)


def _archive(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(data), 0o755
            archive.addfile(about, io.BytesIO(data))
    return written.getvalue()
