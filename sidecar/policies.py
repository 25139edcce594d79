"""What is wanted of the sidecar: a policy and settings, from a policy file or from a Pod's annotations.

One place for all who must refuse the same policies. With annotations, the command line and the environment (which the
injector writes) give the defaults, and the annotations win.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from sidecar.config import LogLevel, SidecarSettings
from sidecar.datapath import Datapath
from sidecar.errors import ConfigError
from tc_core.errors import PolicyError
from tc_core.policy import TrafficPolicy
from tc_core.policy_file import load_policy
from tc_core.policy_scope import beyond_sidecar
from tc_core.units import Rate

_FIXED: Final = ("detection_timeout", "datapath", "log_level")
"""Settings that annotations have, and that a sidecar takes from them only when it starts."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be in force. ``warnings`` are whole sentences.

    ``shared_name`` is the ConfigMap of a shared policy; ``fixed`` is what only a new start changes, by annotation;
    ``files`` is the :func:`signature` of the files as they were then.
    """

    settings: SidecarSettings
    policy: TrafficPolicy
    warnings: tuple[str, ...] = ()
    shared_name: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    files: tuple[object, ...] = ()


def load_sidecar_policy(path: Path | str, *, total: Rate | None = None) -> TrafficPolicy:
    """The policy in a file, as :func:`tc_core.policy_file.load_policy` reads it.

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
        return Wanted(given, load_sidecar_policy(given.policy, total=given.total))
    return _of_annotations(given, given.annotations)


def reload_wanted(given: SidecarSettings, running: Wanted) -> Wanted:
    """The same for a sidecar that runs: settings which it takes only when it starts stay, and a warning names them.

    Raises :class:`ConfigError` also for another shared policy: its ConfigMap is not mounted in a Pod that runs.
    """
    wanted = load_wanted(given)
    if wanted.shared_name not in (None, running.shared_name):
        mounted = f"has ConfigMap {running.shared_name} mounted" if running.shared_name else "has none mounted"
        raise ConfigError(
            f"podlane.io/policy: It names ConfigMap {wanted.shared_name} now, but this Pod {mounted}. "
            "Make the Pod anew, or write the old name."
        )
    later = [f"{name} ({value})" for name, value in wanted.fixed.items() if value != running.fixed[name]]
    warnings = wanted.warnings
    if later:
        warnings += (f"Not in force before the Pod is made anew: {', '.join(later)}.",)
    settings = wanted.settings.model_copy(update={name: getattr(running.settings, name) for name in _FIXED})
    return Wanted(settings, wanted.policy, warnings, running.shared_name, running.fixed, wanted.files)


def signature(given: SidecarSettings) -> tuple[object, ...]:
    """Something that differs once the files of annotations have changed; a file that is not there counts as one.

    The kubelet changes such files by exchanging the symbolic link to their folder.
    """
    return tuple(_identity(path) for path in (given.annotations, given.shared_policy) if path is not None)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _of_annotations(given: SidecarSettings, path: Path) -> Wanted:
    # Only here: whoever has a policy file starts faster without.
    from pod_policy.annotations import EXCLUDE_CIDRS, EXCLUDE_PORTS, PREFIX
    from pod_policy.downward import read_annotations
    from pod_policy.effective import effective, shared_policy_name
    from pod_policy.errors import PodPolicyError

    files = signature(given)  # first: what changes from here on is told by the next
    text = _read(path)
    if text is None:
        raise ConfigError(f"--annotations: There is no file {path}. Name one that a downward API volume makes.")
    try:
        annotations = read_annotations(text)
        name = shared_policy_name(annotations)
        shared = None if name is None else _shared_text(name, given.shared_policy)
        pod = effective(annotations, shared=shared)
    except PodPolicyError as error:
        raise ConfigError(f"{path}: {error}") from None
    said: dict[str, Any] = {
        "detection_timeout": pod.detection_timeout,
        "datapath": pod.datapath and Datapath(pod.datapath),
        "log_level": pod.log_level and LogLevel(pod.log_level),
        # An empty list is one, too: it takes the place of a default that is not.
        "exclude_outbound_ports": pod.exclude_outbound_ports if EXCLUDE_PORTS in annotations else None,
        "exclude_outbound_cidrs": pod.exclude_outbound_cidrs if EXCLUDE_CIDRS in annotations else None,
    }
    settings = given.model_copy(update={key: value for key, value in said.items() if value is not None})
    fixed = {key: str(getattr(settings, key)) for key in _FIXED}
    fixed |= {each.name: str(getattr(pod.resources, each.name) or "the default") for each in fields(pod.resources)}
    named = {f"{PREFIX}{key.replace('_', '-')}": value for key, value in fixed.items()}
    return Wanted(settings, pod.policy, pod.warnings, name, named, files)


def _shared_text(name: str, path: Path | None) -> str | None:
    if path is None:
        raise ConfigError(
            f"podlane.io/policy: ConfigMap {name} is not mounted in this Pod. "
            "Make the Pod anew; where you start the sidecar yourself, give the policy by --shared-policy."
        )
    return _read(path)


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
