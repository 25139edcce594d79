"""From a container of a Pod's document to the configuration that an OCI runtime takes. Pure.

What kubelet and container runtime do between them: k8s.io/kubernetes, pkg/kubelet/kuberuntime, and containerd,
internal/cri/server. The format is https://github.com/opencontainers/runtime-spec. What is not known here is refused: a
Pod that ran with less than its document says would prove nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from traffic_policy.pod.quantities import Quantity

_DEFAULT_CAPABILITIES: Final = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""What a container has that says nothing (containerd, pkg/oci, and Docker)."""
_INHERITED: Final = ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile")
"""What a container takes from the Pod's securityContext where it says nothing itself (core/v1 PodSecurityContext)."""
_SECURITY: Final = {*_INHERITED, "allowPrivilegeEscalation", "capabilities", "privileged", "readOnlyRootFilesystem"}
_CONTAINER: Final = {
    "args", "command", "env", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports", "resources", "restartPolicy",
    "securityContext", "startupProbe", "terminationMessagePath", "terminationMessagePolicy", "volumeMounts",
}  # fmt: skip
MACHINES: Final = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
"""What Go and libseccomp call this machine, by the kernel's name for it."""
_PERIOD: Final = 100_000
"""Microseconds over which a CPU limit is kept, as the kubelet has it."""

# The defaults of runc and containerd, as `runc spec` writes them.
_MASKED: Final = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
]  # fmt: skip
_READ_ONLY: Final = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_DEVICES: Final = ["nosuid", "noexec"]
_MOUNTS: Final[list[dict[str, Any]]] = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": [*_DEVICES, "newinstance", "ptmxmode=0666", "mode=0620"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*_DEVICES, "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": [*_DEVICES, "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_DEVICES, "nodev", "ro"]},
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """What an image brings besides its files: environment, and the user where the Pod names none."""

    environment: Mapping[str, str]
    user: int
    folders: tuple[Path, ...]
    """Folders of this machine that are part of it, below whatever path, readable by all."""

    def mounts(self) -> list[dict[str, Any]]:
        """Its folders, without what else is beside them, and without the rights of the folders above (a 0700 home)."""
        outside = [folder for folder in self.folders if folder.parts[1] != "usr"]
        tops = {str(Path(*folder.parts[:2])) for folder in outside}
        return [
            *({"destination": top, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "ro"]} for top in sorted(tops)),
            *(bind(folder, str(folder), read_only=True) for folder in outside),
        ]  # fmt: skip


def bind(source: Path, destination: str, *, read_only: bool) -> dict[str, Any]:
    """A mount of something that is there already."""
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def configuration(
    spec: Mapping[str, Any],
    container: Mapping[str, Any],
    image: Image,
    *,
    environment: Mapping[str, str],
    mounts: Sequence[Mapping[str, Any]],
    namespaces: Mapping[str, str],
    profile: Mapping[str, Any],
) -> dict[str, Any]:
    """config.json of a container. ``environment`` is what the kubelet adds, ``mounts`` are the volumes, ``namespaces``
    those that exist, by type; ``profile`` is what RuntimeDefault means. Root file system and cgroup are left to the runtime.
    """
    _known(container, _CONTAINER, f"container {container['name']}")
    security = security_of(spec, container)
    capabilities = _capabilities(security.get("capabilities", {}))
    uid = security.get("runAsUser", image.user)
    assert not security.get("privileged"), "a privileged container is not known here"
    assert not (uid == 0 and security.get("runAsNonRoot")), "the kubelet refuses: runAsNonRoot, and the user is root"
    command = [*container.get("command", ()), *container.get("args", ())]
    assert command, "images here have no command of their own"
    assert not any("$(" in part for part in command), "variables in a command are not known here"
    wanted = security.get("seccompProfile", {"type": "Unconfined"})["type"]
    seccomp = {"seccomp": _seccomp(profile, capabilities)} if wanted == "RuntimeDefault" else {}
    assert wanted in ("RuntimeDefault", "Unconfined"), f"seccomp profile {wanted} is not known here"
    own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    variables = {**environment, **image.environment, **own}
    all_mounts = [*_MOUNTS, *image.mounts(), *mounts]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": security.get("runAsGroup", 0)},
            "args": command,
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
        },
        "root": {"readonly": bool(security.get("readOnlyRootFilesystem"))},
        # As containerd orders them, so that what is mounted inside another mount comes after it.
        "mounts": sorted(all_mounts, key=lambda mount: len(Path(mount["destination"]).parts)),
        "linux": {
            "namespaces": [
                {"type": kind, **({"path": namespaces[kind]} if kind in namespaces else {})}
                for kind in ("mount", "pid", "network", "ipc", "uts")
            ],
            "resources": _resources(container.get("resources", {})),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            **seccomp,
        },
    }


def security_of(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """A container's securityContext with what it inherits from the Pod's."""
    pods, own = spec.get("securityContext", {}), container.get("securityContext", {})
    _known(pods, _INHERITED, "the Pod's securityContext")
    _known(own, _SECURITY, f"the securityContext of {container['name']}")
    return {**pods, **own}


def service_links(services: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The variables of Services (k8s.io/kubernetes, pkg/kubelet/envvars/envvars.go)."""
    variables: dict[str, str] = {}
    for service in services:
        address, ports = service["spec"].get("clusterIP", "None"), service["spec"].get("ports", [])
        if address == "None":
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        variables |= {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0]["port"])}
        for number, port in enumerate(ports):
            protocol, link = port["protocol"].lower(), f"{name}_PORT_{port['port']}_{port['protocol']}"
            url = f"{protocol}://{address}:{port['port']}"
            if "name" in port:
                variables[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
            if not number:
                variables[f"{name}_PORT"] = url
            variables |= {
                link: url,
                f"{link}_PROTO": protocol,
                f"{link}_PORT": str(port["port"]),
                f"{link}_ADDR": address,
            }
    return variables


def _capabilities(said: Mapping[str, Sequence[str]]) -> list[str]:
    drop, add = said.get("drop", ()), said.get("add", ())
    assert "ALL" not in add, "all capabilities are not known here"
    kept = [name for name in _DEFAULT_CAPABILITIES if "ALL" not in drop and name not in drop]
    return [f"CAP_{name}" for name in sorted({*kept, *add})]


def _resources(said: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    limits, requests = said.get("limits", {}), said.get("requests", {})
    cpu: dict[str, int] = {}
    if "cpu" in requests:
        cpu["shares"] = max(2, int(Quantity.parse(requests["cpu"]).value * 1024))
    if "cpu" in limits:
        cpu |= {"period": _PERIOD, "quota": int(Quantity.parse(limits["cpu"]).value * _PERIOD)}
    memory = {"limit": int(Quantity.parse(limits["memory"]).value)} if "memory" in limits else {}
    return {"cpu": cpu, "memory": memory}


def _seccomp(profile: Mapping[str, Any], capabilities: Collection[str]) -> dict[str, Any]:
    """A profile in the format of Docker and Podman, for this machine and a container with these capabilities.

    As github.com/containers/common, pkg/seccomp, does it. ``minKernel``, which later profiles know, is not looked at:
    they ask for 4.8, older than all that has what Podlane needs.
    """
    architecture, native = MACHINES[platform.machine()]
    others = next(m["subArchitectures"] for m in profile["archMap"] if m["architecture"] == native)

    def applies(rule: Mapping[str, Any]) -> bool:
        only, never = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            architecture in only.get("arches", [architecture])
            and architecture not in never.get("arches", ())
            and all(capability in capabilities for capability in only.get("caps", ()))
            and not any(capability in capabilities for capability in never.get("caps", ()))
        )

    kept = ("names", "action", "errnoRet", "args")
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [native, *others],
        "syscalls": [
            {key: rule[key] for key in kept if rule.get(key)} for rule in profile["syscalls"] if applies(rule)
        ],
    }


def _known(said: Mapping[str, Any], known: Collection[str], where: str) -> None:
    unknown = sorted(set(said) - set(known))
    assert not unknown, f"{where} has {', '.join(unknown)}, which is not known here"
