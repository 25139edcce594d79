"""Containers with CAP_NET_RAW, whose programs can send past the classes of their Pod. Pure.

Frames of a packet socket (packet(7)) do not pass the rules that take marks of others away, and with
PACKET_QDISC_BYPASS not even the classes. Container runtimes give the capability unless it is dropped
(https://kubernetes.io/docs/tasks/configure-pod-container/security-context/).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from injector.errors import InjectionError
from injector.pod.containers import NAME
from injector.pod.pods import (
    CONTAINERS,
    INIT_CONTAINERS,
    ISTIO_INIT,
    ISTIO_PROXY,
    LINKERD,
    listed,
    mapping,
    name_of,
    spec_of,
)

_CAPABILITY: Final = "NET_RAW"
_ALL: Final = "ALL"
_TRUSTED: Final = (NAME, ISTIO_PROXY, *ISTIO_INIT, *LINKERD)
"""Containers of a mesh write its rules, or hold its traffic anyway."""


def asks(container: Mapping[str, Any]) -> bool:
    """Whether a container adds it, alone or with all others."""
    return _is_privileged(container) or bool(_capabilities(container, "add") & {_CAPABILITY, _ALL})


def has(container: Mapping[str, Any]) -> bool:
    """Whether a container has it: what is added is not dropped, and what is not dropped the runtime gives."""
    return asks(container) or not _capabilities(container, "drop") & {_CAPABILITY, _ALL}


def warnings(pod: Mapping[str, Any]) -> Iterator[str]:
    """A warning of the containers that ask for it, but not of those that have what every container has, or that are
    privileged, and so could undo all limits."""
    found = (container for _, container in _containers(pod) if asks(container) and not _is_privileged(container))
    if names := [name_of(container) for container in found]:
        yield (
            f"{_listed(names)} can send packets past the classes of the Pod, by the capability {_CAPABILITY}. "
            "Do not add it where limits must hold."
        )


def refuse(pod: Mapping[str, Any], *, asked: bool = True) -> None:
    """Raise :class:`InjectionError` if a container has it; without ``asked`` only for one that does not ask for it."""
    names = [name_of(each) for _, each in _containers(pod) if has(each) and (asked or not asks(each))]
    if names:
        raise InjectionError(
            f"{_listed(names)} can send packets past the classes of the Pod, by the capability {_CAPABILITY}, and the "
            f"injector is set to allow none. Set securityContext.capabilities.drop to [{_CAPABILITY}], or [{_ALL}], "
            "and do not add it."
        )


def drops(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The operations of a JSON patch (RFC 6902) that take it from containers that do not ask for it."""
    for path, container in _containers(pod):
        if not has(container) or asks(container):
            continue
        value: Any = [_CAPABILITY]
        security = container.get("securityContext")
        capabilities = mapping(security).get("capabilities")
        if not isinstance(security, Mapping):
            yield _add(f"{path}/securityContext", {"capabilities": {"drop": value}})
        elif not isinstance(capabilities, Mapping):
            yield _add(f"{path}/securityContext/capabilities", {"drop": value})
        elif not isinstance(capabilities.get("drop"), list):
            yield _add(f"{path}/securityContext/capabilities/drop", value)
        else:
            yield _add(f"{path}/securityContext/capabilities/drop/-", _CAPABILITY)


def _add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def _containers(pod: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The containers of the application, with their JSON Pointers."""
    for key in (INIT_CONTAINERS, CONTAINERS):
        for i, item in enumerate(listed(spec_of(pod).get(key))):
            if isinstance(item, Mapping) and name_of(item) not in _TRUSTED:
                yield f"/spec/{key}/{i}", item


def _is_privileged(container: Mapping[str, Any]) -> bool:
    return mapping(container.get("securityContext")).get("privileged") is True


def _capabilities(container: Mapping[str, Any], which: str) -> set[str]:
    """Names without the prefix that some runtimes take, too."""
    capabilities = mapping(mapping(container.get("securityContext")).get("capabilities"))
    return {str(each).upper().removeprefix("CAP_") for each in listed(capabilities.get(which))}


def _listed(names: list[str]) -> str:
    return f"Container{'s' * (len(names) > 1)} {', '.join(names)}"
