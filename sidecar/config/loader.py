"""What is wanted of the sidecar: a policy and settings, from a policy file or from a Pod's annotations.

One place for all who must refuse the same policies. With annotations, the command line and the environment (which the
injector writes) give the defaults, and the annotations win.
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

from datapath.kinds import Datapath
from datapath.mesh.types import Mesh
from datapath.on_failure import OnFailure
from sidecar.config.settings import LogLevel, SidecarSettings
from traffic_policy.errors import ConfigError, PolicyError, Problem
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import load_policy
from traffic_policy.scope import beyond_sidecar, beyond_step_aside
from traffic_policy.units import Rate

_EXCLUSIONS: Final = (
    "exclude_outbound_ports", "exclude_outbound_cidrs", "exclude_inbound_ports", "exclude_inbound_cidrs"
)  # fmt: skip
"""Settings, and annotations of the same names."""
_FIXED: Final = ("detection_timeout", "datapath", "mesh", "log_level")
"""Settings that annotations have, and that a sidecar takes from them only when it starts."""
_READINGS: Final = 3
"""Files that change each time they are read are taken as they are; the next change tells."""
_HALF_WRITTEN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be in force. ``warnings`` are whole sentences.

    ``fixed`` is what only a new start changes, by annotation; ``digest`` the SHA-256 of what is wanted, in hexadecimal,
    which for annotations is the one that the injector writes in ``podlane.io/status``.
    """

    settings: SidecarSettings
    policy: TrafficPolicy
    warnings: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


def load_sidecar_policy(path: Path | str, *, total: Rate | None = None) -> TrafficPolicy:
    """The policy in a file, as :func:`traffic_policy.policy_file.load_policy` reads it.

    Raises :class:`PolicyError` also for what the sidecar cannot do: what it ignored would be a limit not kept.
    """
    policy = load_policy(path, total=total)
    if problems := beyond_sidecar(policy):
        raise PolicyError(problems, str(path))
    return policy


def load_wanted(given: SidecarSettings) -> Wanted:
    """Read what the settings name: the policy file, or a Pod's annotations and the policy that they share.

    Raises :class:`PolicyError` for a policy file, :class:`ConfigError` for annotations, with every problem.
    """
    if given.annotations is None:
        assert given.policy is not None  # SidecarSettings sees to it that there is one of the two
        policy = load_sidecar_policy(given.policy, total=given.total)
        if problems := _beyond(policy, given.datapath):
            raise PolicyError(problems, str(given.policy))
        meaning = json.dumps(policy.to_document(), sort_keys=True)
        return Wanted(given, policy, digest=hashlib.sha256(meaning.encode()).hexdigest())
    return _of_annotations(given, given.annotations)


def _beyond(policy: TrafficPolicy, datapath: Datapath) -> list[Problem]:
    """What the datapath cannot do."""
    return beyond_step_aside(policy) if datapath is Datapath.STEP_ASIDE else []


def reload_wanted(given: SidecarSettings, running: Wanted) -> Wanted:
    """The same for a sidecar that runs: settings which it takes only when it starts stay, and a warning names them."""
    wanted = load_wanted(given)
    later = [f"{name} ({value})" for name, value in wanted.fixed.items() if value != running.fixed[name]]
    warnings = wanted.warnings
    if later:
        warnings += (f"Not in force before the Pod is made anew: {', '.join(later)}.",)
    settings = wanted.settings.model_copy(update={name: getattr(running.settings, name) for name in _FIXED})
    return Wanted(settings, wanted.policy, warnings, running.fixed, wanted.digest)


def on_failure_asked(given: SidecarSettings) -> OnFailure:
    """What is asked for, by annotations before settings, also where nothing else of the annotations can be used."""
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
    """The files that what is wanted comes from, as they are there now."""
    paths = (given.policy, given.annotations, *_shared_policies(given.shared_policy).values())
    return tuple(path for path in paths if path is not None)


def contents(given: SidecarSettings) -> bytes:
    """A digest of what stands in all of these files. One that is not there, or is a pipe, stands for itself."""
    digest = hashlib.sha256()
    for path in sources(given):
        try:
            # A pipe can be read once, and whoever opens a FIFO waits for its writer.
            text = path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else b""
        except OSError as error:
            text = str(error.errno).encode()
        digest.update(f"{path}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of reading files with these :func:`contents`: something usable, or why there is nothing."""

    contents: bytes
    wanted: Wanted | None
    problem: str = ""


def attempt(
    given: SidecarSettings, running: Wanted, tried: bytes | None, *, pause: Callable[[float], None] = time.sleep
) -> Attempt | None:
    """Read what is wanted while a sidecar runs; None: it is what was ``tried`` last.

    What changed in the middle is read once more; what is wrong may be half of what is still being written, so it gets
    the time to change (``pause`` waits some seconds). Raises nothing: whatever stands in a file that is being edited
    must not end the proxy.
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
    # Only here: whoever has a policy file starts faster without.
    from traffic_policy.errors import PodlaneError
    from traffic_policy.pod.annotations import PREFIX
    from traffic_policy.pod.downward import read_annotations
    from traffic_policy.pod.effective import effective

    text = _read(path)
    if text is None:
        raise ConfigError(f"--annotations: There is no file {path}. Name one that a downward API volume makes.")
    warnings: tuple[str, ...] = ()
    try:
        annotations, shared, warnings = _with_shared_policy(read_annotations(text), given.shared_policy)
        pod = effective(annotations, shared=shared)
    except PodlaneError as error:
        raise ConfigError("\n".join((f"{path}: {error}", *warnings))) from None
    said: dict[str, Any] = {
        "detection_timeout": pod.detection_timeout,
        "datapath": pod.datapath and Datapath(pod.datapath),
        # Told to find out, the injector has looked at the Pod, and the environment says what it found.
        "mesh": Mesh(pod.mesh) if pod.mesh and pod.mesh != Mesh.AUTO else None,
        "log_level": pod.log_level and LogLevel(pod.log_level),
        "on_failure": pod.on_failure and OnFailure(pod.on_failure),
    }
    # An empty list is one, too: it takes the place of a default that is not.
    said |= {name: getattr(pod, name) for name in _EXCLUSIONS if f"{PREFIX}{name.replace('_', '-')}" in annotations}
    settings = given.model_copy(update={key: value for key, value in said.items() if value is not None})
    if problems := _beyond(pod.policy, settings.datapath):
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    fixed = {key: str(getattr(settings, key)) for key in _FIXED}
    fixed |= {each.name: str(getattr(pod.resources, each.name) or "the default") for each in fields(pod.resources)}
    named = {f"{PREFIX}{key.replace('_', '-')}": value for key, value in fixed.items()}
    return Wanted(settings, pod.policy, (*warnings, *pod.warnings), named, pod.digest)


def _with_shared_policy(
    annotations: dict[str, str], folder: Path | None
) -> tuple[dict[str, str], str | None, tuple[str, ...]]:
    """The annotations as they count, the text of the shared policy, and a warning if it is not the one they name.

    A Pod keeps the volume that it was made with. The injector mounted what the annotation named then, so another name
    was written later: the sidecar stays with the old one, at a new start as while it runs, instead of leaving the Pod
    without limits. Whoever starts a sidecar by hand is told of a wrong name by a :class:`ConfigError`.
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
    return f"podlane.io/policy: It names ConfigMap {name} now, but this Pod was made {made}. Make the Pod anew."


def _shared_policies(folder: Path | None) -> dict[str, Path]:
    """The files of shared policies by the names of their ConfigMaps."""
    if folder is None:
        return {}
    from traffic_policy.pod.annotations import shared_policy_file

    return {path.parent.name: path for path in sorted(folder.glob(shared_policy_file("*")))}


def _read(path: Path) -> str | None:
    """The text of a file; None when there is none."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: It cannot be read: {error.strerror}. Check its permissions.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: Not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
