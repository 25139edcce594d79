"""Reads the wanted policy and settings, from a policy file or from a Pod's annotations.

All parts that must refuse the same policies use this module. With annotations, the command line and the environment
(which the injector writes) are the defaults, and the annotations override them.
"""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from sidecar.config.settings import SidecarSettings
from traffic_policy.errors import ConfigError, PolicyError
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import load_sidecar_policy
from traffic_policy.scope import beyond
from traffic_policy.settings import Datapath, LogLevel, Mesh, OnFailure

_EXCLUSIONS: Final = (
    "exclude_outbound_ports", "exclude_outbound_cidrs", "exclude_inbound_ports", "exclude_inbound_cidrs"
)  # fmt: skip
"""Settings with annotations of the same names."""
_FIXED: Final = ("detection_timeout", "datapath", "mesh", "log_level")
"""Settings that annotations have, and that a sidecar reads only at its start."""
_READINGS: Final = 3
"""Number of attempts: files that change each time they are read are used as they are; the next change is detected."""
_HALF_WRITTEN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Wanted:
    """The wanted policy and settings. ``warnings`` are whole sentences.

    ``fixed`` are the settings that an annotation changes only at a new start; ``digest`` the SHA-256 of the policy, in
    hexadecimal, which for annotations is the one that the injector writes in ``podlane.io/status``.
    """

    settings: SidecarSettings
    policy: TrafficPolicy
    warnings: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


def load_wanted(given: SidecarSettings) -> Wanted:
    """Read the sources in the settings: the policy file, or a Pod's annotations and their shared policy.

    Raises :class:`PolicyError` for a policy file, :class:`ConfigError` for annotations, with every problem.
    """
    if given.annotations is None:
        assert given.policy is not None  # SidecarSettings ensures that one of the two is set
        policy = load_sidecar_policy(given.policy, total=given.total)
        if problems := beyond(policy, given.datapath):
            raise PolicyError(problems, str(given.policy))
        meaning = json.dumps(policy.to_document(), sort_keys=True)
        return Wanted(given, policy, digest=hashlib.sha256(meaning.encode()).hexdigest())
    return _of_annotations(given, given.annotations)


def reload_wanted(given: SidecarSettings, running: Wanted) -> Wanted:
    """The same for a running sidecar: settings that are read only at its start stay, and a warning names them."""
    wanted = load_wanted(given)
    later = [f"{name} ({value})" for name, value in wanted.fixed.items() if value != running.fixed[name]]
    warnings = wanted.warnings
    if later:
        warnings += (f"Not in force before the Pod is created again: {', '.join(later)}.",)
    settings = wanted.settings.model_copy(update={name: getattr(running.settings, name) for name in _FIXED})
    return Wanted(settings, wanted.policy, warnings, running.fixed, wanted.digest)


def on_failure_asked(given: SidecarSettings) -> OnFailure:
    """The wanted value, by annotations before settings, even if the other annotations are invalid."""
    if given.annotations is None:
        return given.on_failure
    from traffic_policy.errors import PodlaneError
    from traffic_policy.pod.annotations import PREFIX
    from traffic_policy.pod.downward import read_annotations

    try:
        said = read_annotations(_read(given.annotations) or "").get(f"{PREFIX}on-failure")
        return given.on_failure if said is None else OnFailure(said.strip())
    except (ConfigError, PodlaneError, ValueError):
        return given.on_failure


def sources(given: SidecarSettings) -> tuple[Path, ...]:
    """The files that are read, as they exist now."""
    paths = (given.policy, given.annotations, *_shared_policies(given.shared_policy).values())
    return tuple(path for path in paths if path is not None)


def contents(given: SidecarSettings) -> bytes:
    """A digest of the content of all these files. A missing file or a pipe counts as itself."""
    digest = hashlib.sha256()
    for path in sources(given):
        try:
            # A pipe can be read once, and opening a FIFO blocks until it has a writer.
            text = path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else b""
        except OSError as error:
            text = str(error.errno).encode()
        digest.update(f"{path}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of reading files with these :func:`contents`: a usable policy, or the reason why not."""

    contents: bytes
    wanted: Wanted | None
    problem: str = ""


def attempt(
    given: SidecarSettings, running: Wanted, tried: bytes | None, *, pause: Callable[[float], None] = time.sleep
) -> Attempt | None:
    """Read the wanted policy while a sidecar runs; None: it is the one ``tried`` last.

    If a file changed while it was read it is read again; an invalid file may be half-written, so it gets time to change
    (``pause`` waits some seconds). Raises nothing: the content of a file that is being edited must not end the proxy.
    """
    for _ in range(_READINGS):
        before = contents(given)
        if before == tried:
            return None
        wanted, problem = None, ""
        try:
            wanted = reload_wanted(given, running)
        except Exception as error:  # noqa: BLE001 (see above)
            problem = str(error)
            pause(_HALF_WRITTEN_S)
        if contents(given) == before:
            break
    return Attempt(before, wanted, problem)


def _of_annotations(given: SidecarSettings, path: Path) -> Wanted:
    # Imported here only, as a start with a policy file is faster without.
    from traffic_policy.errors import PodlaneError
    from traffic_policy.pod.annotations import PREFIX
    from traffic_policy.pod.downward import read_annotations
    from traffic_policy.pod.governed import governed

    text = _read(path)
    if text is None:
        raise ConfigError(f"--annotations: There is no file {path}. Name one that a downward API volume makes.")
    warnings: tuple[str, ...] = ()
    try:
        annotations, shared, warnings = _with_shared_policy(read_annotations(text), given.shared_policy)
        pod = governed(annotations, shared=shared)
    except PodlaneError as error:
        raise ConfigError("\n".join((f"{path}: {error}", *warnings))) from None
    said: dict[str, Any] = {
        "detection_timeout": pod.detection_timeout,
        "datapath": pod.datapath and Datapath(pod.datapath),
        # With ``auto`` the injector has examined the Pod, and the environment has its result.
        "mesh": Mesh(pod.mesh) if pod.mesh and pod.mesh != Mesh.AUTO else None,
        "log_level": pod.log_level and LogLevel(pod.log_level),
        "on_failure": pod.on_failure and OnFailure(pod.on_failure),
    }
    # An empty list also overrides a default that is not empty.
    said |= {name: getattr(pod, name) for name in _EXCLUSIONS if f"{PREFIX}{name.replace('_', '-')}" in annotations}
    settings = given.model_copy(update={key: value for key, value in said.items() if value is not None})
    if problems := beyond(pod.policy, settings.datapath):
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    fixed = {key: str(getattr(settings, key)) for key in _FIXED}
    fixed |= {each.name: str(getattr(pod.resources, each.name) or "the default") for each in fields(pod.resources)}
    fixed["image"] = pod.image or "the default"
    named = {f"{PREFIX}{key.replace('_', '-')}": value for key, value in fixed.items()}
    return Wanted(settings, pod.policy, (*warnings, *pod.warnings), named, pod.digest)


def _with_shared_policy(
    annotations: dict[str, str], folder: Path | None
) -> tuple[dict[str, str], str | None, tuple[str, ...]]:
    """The effective annotations, the text of the shared policy, and a warning if it is not the one they name.

    A Pod keeps the volume that it was created with. The injector mounted the ConfigMap named by the annotation then, so
    another name was written later: the sidecar keeps the old policy, at a new start as while it runs, instead of
    leaving the Pod without limits. A sidecar started by hand with a wrong name raises :class:`ConfigError`.
    """
    from traffic_policy.pod.annotations import POLICY, STATUS, shared_policy_file
    from traffic_policy.pod.effective import shared_policy_name

    name = shared_policy_name(annotations)
    if name is None:
        return annotations, None, ()
    there = _shared_policies(folder)
    if name in there:
        return annotations, _read(there[name]), ()
    if STATUS not in annotations or len(there) > 1:
        lacking = "--shared-policy is missing" if folder is None else f"{folder} has no {shared_policy_file(name)}"
        raise ConfigError(
            f"{POLICY}: It names ConfigMap {name}, but {lacking}. "
            f"Name by --shared-policy the folder in which its policy is {shared_policy_file(name)}."
        )
    others = {key: value for key, value in annotations.items() if key != POLICY}
    if not there:
        return others, None, (_another(name, "without one, and the other annotations alone stay in force"),)
    (old,) = there
    return others | {POLICY: old}, _read(there[old]), (_another(name, f"with {old}, which stays in force"),)


def _another(name: str, made: str) -> str:
    return f"podlane.io/policy: It names ConfigMap {name} now, but this Pod was made {made}. Create the Pod again."


def _shared_policies(folder: Path | None) -> dict[str, Path]:
    """The files of shared policies by the names of their ConfigMaps."""
    if folder is None:
        return {}
    from traffic_policy.pod.annotations import shared_policy_file

    return {path.parent.name: path for path in sorted(folder.glob(shared_policy_file("*")))}


def _read(path: Path) -> str | None:
    """The text of a file; None if it does not exist."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: It cannot be read: {error.strerror}. Check its permissions.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: Not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
