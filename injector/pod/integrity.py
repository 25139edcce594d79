"""Whether the injected container and volumes are still what was injected. Pure.

What carries our names need not be ours: the annotation ``podlane.io/status`` can be written by anybody, and other
webhooks change containers, too. Everything must be equal that decides whether limits are kept:

* the image's repository; tag and digest may be those of another version, which an upgrade of the injector leaves behind
  for a while. Further repositories can be trusted, for webhooks that rewrite images to those of a mirror;
* command, security context, restart policy, the commands of the probes (or those that version 0.2.0 wrote, which ask
  the same: injectors of two versions work side by side during an upgrade); no lifecycle hook and no further probe,
  which run programs in the container;
* the environment variables ``PODLANE_*``, except those about logs, ports and times, which an upgrade may change; none
  that make the interpreter or the linker load other code;
* the mounts, and the volumes. Others may add mounts of credentials and certificates.

Resources, pull policy and ports may differ (VerticalPodAutoscaler, other webhooks), and what the API server fills in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from traffic_policy.settings import VARIABLE_PREFIX, variable

_FREE: Final = frozenset(
    {
        "image", "env", "volumeMounts", "securityContext", "startupProbe", "livenessProbe",  # compared by parts
        "imagePullPolicy", "ports", "resizePolicy", "resources", "stdin", "stdinOnce",
        "terminationMessagePath", "terminationMessagePolicy", "tty",
    }
)  # fmt: skip
"""Fields of a container (core/v1) that need not be equal as a whole."""
_FREE_VARIABLES: Final = frozenset(
    map(
        variable,
        ("access_log", "admin_address", "admin_port", "connect_timeout", "grace", "idle_timeout", "inbound_port",
         "log_format", "log_level", "max_connections", "outbound_port", "workers"),
    )
)  # fmt: skip
_LOADERS: Final = ("PYTHON", "LD_", "GLIBC_", "XTABLES_")
"""Prefixes of variables that make programs load other code (python(1), ld.so(8), iptables(8))."""
_FREE_SECURITY: Final = frozenset({"capabilities", "seLinuxOptions", "appArmorProfile"})
_MOUNTS: Final = re.compile(
    r"/(var/)?run/secrets/.+|/etc/(ssl|pki)(/.+)?|/usr/(local/)?share/(pki/)?ca-certificates(/.+)?|/dev/termination-log"
)
"""Where others may mount credentials and certificates."""
_IMAGE: Final = re.compile(r"(?P<repository>.+?)(:(?P<tag>[\w][\w.-]{0,127}))?(@[\w:.+-]+)?")


_EARLIER_PROBES: Final = ({"command": ["podlane", "ready"]},)
"""What earlier versions have as startup probe."""


def repository(image: str) -> str:
    """An image's name without tag and digest: ``registry:5000/podlane`` of ``registry:5000/podlane:1.2``."""
    match = _IMAGE.fullmatch(image)
    return match["repository"] if match else image


def altered(planned: Mapping[str, Any], found: Mapping[str, Any], trusted: Sequence[str] = ()) -> Iterator[str]:
    """The parts of a container that are not as planned, in words. ``trusted``: further repositories of its image."""
    image = found.get("image")
    if not isinstance(image, str) or repository(image) not in (repository(planned["image"]), *trusted):
        yield "image"
    for key in sorted({*planned, *found} - _FREE):
        if _bare(planned.get(key)) != _bare(found.get(key)):
            yield key
    for key, earlier in (("startupProbe", _EARLIER_PROBES), ("livenessProbe", ())):
        if not _same_probe((planned[key]["exec"], *earlier), found.get(key)):
            yield key
    yield from _security(planned["securityContext"], _mapping(found.get("securityContext")))
    yield from _environment(planned["env"], found.get("env"))
    yield from _mounts(planned["volumeMounts"], found.get("volumeMounts"))


def altered_volume(planned: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a volume is not as planned. The API server adds ``defaultMode``."""
    there = {key: _bare(value) for key, value in found.items()}
    return {k: _without(v, "defaultMode") for k, v in there.items() if v is not None} != dict(planned)


def _same_probe(allowed: Sequence[Mapping[str, Any]], found: Any) -> bool:
    """How often a probe asks is left to others (and the API server); what it runs is not."""
    probe = _mapping(found)
    others = ("httpGet", "tcpSocket", "grpc")
    return _mapping(probe.get("exec")) in allowed and not any(probe.get(key) for key in others)


def _security(planned: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    keys = {*planned, *found} - _FREE_SECURITY
    wrong = [key for key in sorted(keys) if _bare(planned.get(key)) != _bare(found.get(key))]
    if found.get("procMount") == "Default" and "procMount" in wrong:
        wrong.remove("procMount")
    yield from (f"securityContext.{key}" for key in wrong)
    capabilities = _mapping(found.get("capabilities"))
    added, dropped = _names(capabilities.get("add")), _names(capabilities.get("drop"))
    yield from (f"capability {name} (added)" for name in sorted(added - _names(planned["capabilities"]["add"])))
    if "ALL" not in dropped:
        yield "securityContext.capabilities.drop"


def _names(capabilities: Any) -> set[str]:
    """Capabilities without the prefix CAP_."""
    listed = capabilities if isinstance(capabilities, list) else []
    return {str(name).removeprefix("CAP_") for name in listed}


def _environment(planned: Sequence[Mapping[str, str]], found: Any) -> Iterator[str]:
    wanted = {each["name"]: each for each in planned}
    there = {str(_mapping(each).get("name")): _bare(each) for each in (found if isinstance(found, list) else [])}
    for name in sorted({*wanted, *there}):
        decides = name.startswith(VARIABLE_PREFIX) and name not in _FREE_VARIABLES
        if name.startswith(_LOADERS) or name == "PATH" or (decides and there.get(name) != wanted.get(name)):
            yield f"env {name}"


def _mounts(planned: Sequence[Mapping[str, Any]], found: Any) -> Iterator[str]:
    there = [_mount(each) for each in (found if isinstance(found, list) else [])]
    wanted = [_mount(each) for each in planned]
    yield from (f"volumeMount {each.get('mountPath')}" for each in wanted if each not in there)
    for each in there:
        path = str(each.get("mountPath"))
        if each not in wanted and (not _MOUNTS.fullmatch(path) or ".." in path):
            yield f"volumeMount {path}"


def _mount(mount: Any) -> dict[str, Any]:
    """Without what the API server fills in, or leaves out."""
    return {k: v for k, v in _mapping(mount).items() if v not in (None, False, "", "Disabled")}


def _bare(value: Any) -> Any:
    """None for what is empty: the API leaves it out."""
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items()} or None
    return None if value in ([], "") else value


def _without(value: Any, key: str) -> Any:
    return {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
