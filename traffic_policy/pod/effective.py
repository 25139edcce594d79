"""Evaluates all annotations of a Pod to a policy and the sidecar's settings, or to all problems. Pure.

A limit that cannot be honoured is a problem, never ignored: a misspelt annotation is one, too.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

from traffic_policy.cluster.caps import Clamp
from traffic_policy.errors import PodlaneError, PolicyError, Problem, shortened
from traffic_policy.fields import parse_networks
from traffic_policy.pod import annotations as known
from traffic_policy.pod.composition import BasePolicy, Parts, compose
from traffic_policy.pod.quantities import Resources, bandwidth, bandwidth_text, parse_cpu, parse_memory
from traffic_policy.policy import Network, PortRange, TrafficPolicy
from traffic_policy.policy_file import parse_document
from traffic_policy.scope import beyond
from traffic_policy.settings import Datapath, LogLevel, Mesh, OnFailure
from traffic_policy.units import Duration, Rate

_T = TypeVar("_T")
_CONFIG_MAP: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""A DNS subdomain (RFC 1123), which names of ConfigMaps are."""
_IMAGE: Final = re.compile(r"(?=.{1,500}$)[A-Za-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9_](@[a-z0-9]+:[0-9a-f]{32,})?")
"""An image's name, roughly (github.com/distribution/reference): whose it is, the injector looks at."""
MOST_EXCLUDED: Final = 100
"""Every packet that is sent passes a rule for each."""
_LIMITS: Final = (
    known.EGRESS,
    known.INGRESS,
    known.KUBERNETES_EGRESS,
    known.KUBERNETES_INGRESS,
    known.CLASSES,
    known.DEFAULT_CLASS,
    known.POLICY,
)
_SHOWN: Final = 20
"""Problems that an error's text has; kubectl prints it as one line after another."""
_LONGEST: Final = 600
"""Characters of one problem's text; the longest of our own sentences have some 300."""
_LONGEST_PATH: Final = 120
"""Characters of an annotation's name as it is told; ours have 40 at most."""
_COMPARED: Final = 20
"""Unknown annotations that are compared with those there are; a Pod can have tens of thousands."""


class AnnotationsError(PodlaneError, ValueError):
    """A Pod's annotations cannot be honoured. ``problems`` has every reason there is, never none."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(map(_brief, problems))
        super().__init__(str(self))

    def __reduce__(self) -> tuple[type[AnnotationsError], tuple[tuple[Problem, ...]]]:
        """For pickle: another process may be told of it."""
        return AnnotationsError, (self.problems,)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"  - {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  - and {len(self.problems) - _SHOWN} more")
        return "\n".join([f"{len(self.problems)} problems in the Pod's annotations:", *lines])


def _brief(problem: Problem) -> Problem:
    """A problem may quote a value of a quarter of a MiB: keep how it begins, and the remedy at its end."""
    if len(problem.message) <= _LONGEST and len(problem.path) <= _LONGEST_PATH:
        return problem
    return replace(problem, path=shortened(problem.path, _LONGEST_PATH), message=shortened(problem.message, _LONGEST))


_TOLD: Final = ("warnings", "clamps", "neighbours", "unkept")
"""Fields that only say something about the others."""


@dataclass(frozen=True, slots=True)
class PodPolicy:
    """All settings of the annotations. None: not set, so that the reader's default applies.

    ``policy`` has been checked, and the sidecar can put it in force. ``warnings`` are whole sentences.
    """

    policy: TrafficPolicy
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_cidrs: tuple[Network, ...] = ()
    exclude_inbound_ports: tuple[PortRange, ...] = ()
    exclude_inbound_cidrs: tuple[Network, ...] = ()
    detection_timeout: Duration | None = None
    log_level: str | None = None
    datapath: str | None = None
    mesh: str | None = None
    resources: Resources = field(default_factory=Resources)
    image: str | None = None
    on_failure: str | None = None
    warnings: tuple[str, ...] = ()
    clamps: tuple[Clamp, ...] = ()
    """What caps have lowered in ``policy``."""
    neighbours: tuple[str, ...] = ()
    """What else may hold the Pod, in sentences, which are among ``warnings``."""
    unkept: tuple[str, ...] = ()
    """What a policy asks for that is not kept here, in sentences, which are among ``warnings``."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The policy as plain data in policy-file grammar."""
        return self.policy.to_document()

    @property
    def digest(self) -> str:
        """SHA-256 (64 hexadecimal digits) of all that is in force; the same for annotations that mean the same."""
        meaning = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TOLD}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, TrafficPolicy):
        return value.to_document()
    return {f.name: getattr(value, f.name) for f in fields(value)} if isinstance(value, Resources) else str(value)


def shared_policy_name(annotations: Mapping[str, str]) -> str | None:
    """The ConfigMap that the annotation ``podlane.io/policy`` names; its key is ``policy.yaml``.

    None also for what cannot be a name, so that it is safe in a path; :func:`effective` tells that as a problem.
    """
    name = annotations.get(known.POLICY, "").strip()
    return name if _CONFIG_MAP.fullmatch(name) else None


def has_limits(annotations: Mapping[str, str]) -> bool:
    """Whether annotations say anything about limits; others are settings of how limits are kept."""
    return any(name in annotations for name in _LIMITS)


def effective(
    annotations: Mapping[str, str], *, shared: str | None = None, base: BasePolicy | None = None
) -> PodPolicy:
    """Evaluate all annotations of a Pod; foreign ones are ignored.

    ``shared`` is the text of the policy in the ConfigMap that :func:`shared_policy_name` gives; None: there is none,
    which is a problem where one is named. ``base`` is the policy that takes its place where none is named. Raises
    :class:`AnnotationsError` with every problem there is.
    """
    reader = _Reader(annotations)
    reader.problems += _misplaced(annotations)
    on_failure = reader.read(known.ON_FAILURE, _one_of(OnFailure))
    parts = _parts(reader, shared, base)
    composed = compose(parts)
    reader.problems += _limits_missing(annotations, parts)
    reader.problems += composed.problems
    settings = {
        field: value for field, (name, parse) in _SETTINGS.items() if (value := reader.read(name, parse)) is not None
    }
    if composed.policy is not None:
        datapath = settings.get("datapath")
        reader.problems += (Problem(known.DATAPATH, str(each)) for each in beyond(composed.policy, datapath))
    resources = _resources(reader)
    if reader.problems or composed.policy is None:
        raise AnnotationsError(reader.problems)
    neighbours = (*_warnings(annotations, parts), *_neighbours(annotations, parts, base))
    return PodPolicy(
        policy=composed.policy,
        resources=resources,
        on_failure=on_failure,
        warnings=(*neighbours, *composed.warnings),
        neighbours=neighbours,
        **settings,
    )


def _one_of(kind: type[StrEnum]) -> Callable[[str], str]:
    choices = [each.value for each in kind]

    def parse(text: str) -> str:
        if text.strip() not in choices:
            raise ValueError(f"{text!r} is not one of the values. Write {', '.join(choices[:-1])} or {choices[-1]}.")
        return text.strip()

    return parse


def _image(text: str) -> str:
    if not _IMAGE.fullmatch(text.strip()):
        raise ValueError(
            f"{text!r} is not an image. Write its repository and a tag or digest, as registry.example.com/podlane:1.2."
        )
    return text.strip()


def _at_most(parse: Callable[[str], tuple[_T, ...]]) -> Callable[[str], tuple[_T, ...]]:
    def parse_some(text: str) -> tuple[_T, ...]:
        values = parse(text)
        if len(values) > MOST_EXCLUDED:
            raise ValueError(
                f"{len(values)} are too many. Merge them into {MOST_EXCLUDED} ranges or networks, or fewer."
            )
        return values

    return parse_some


_SETTINGS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "exclude_outbound_ports": (known.EXCLUDE_PORTS, _at_most(PortRange.parse_list)),
    "exclude_inbound_ports": (known.EXCLUDE_INBOUND_PORTS, _at_most(PortRange.parse_list)),
    "exclude_outbound_cidrs": (known.EXCLUDE_CIDRS, _at_most(parse_networks)),
    "exclude_inbound_cidrs": (known.EXCLUDE_INBOUND_CIDRS, _at_most(parse_networks)),
    "detection_timeout": (known.DETECTION_TIMEOUT, Duration.parse),
    "log_level": (known.LOG_LEVEL, _one_of(LogLevel)),
    "datapath": (known.DATAPATH, _one_of(Datapath)),
    "mesh": (known.MESH, _one_of(Mesh)),
    "image": (known.IMAGE, _image),
}
"""Fields of :class:`PodPolicy`: the annotation of each, and how it is read."""


class _Reader:
    """Reads annotations one by one, and keeps what is wrong with them."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self.annotations = annotations
        self.problems: list[Problem] = []

    def read(self, name: str, parse: Callable[[str], _T]) -> _T | None:
        """What an annotation says; None when it is not there, or is wrong."""
        text = self.annotations.get(name)
        if text is None:
            return None
        try:
            return parse(text)
        except PolicyError as error:
            self.problems += (Problem(name, str(problem)) for problem in error.problems)
        except ValueError as error:
            self.problems.append(Problem(name, str(error)))
        return None


def _misplaced(annotations: Mapping[str, str]) -> Iterator[Problem]:
    """Annotations under our prefix that there are not."""
    names, compared = known.ANNOTATIONS, 0
    for name in sorted(annotations):
        if not name.startswith(known.PREFIX) or name in names or name in known.OURS:
            continue
        if name in known.LABELS:
            yield Problem(name, "This is a label, not an annotation. Move it to metadata.labels.")
            continue
        compared += 1
        if compared > _COMPARED:
            yield Problem(name, "There is no such annotation.")
            continue
        near = difflib.get_close_matches(name.lower()[:_LONGEST_PATH], names, n=1, cutoff=0.7)
        remedy = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names)}."
        yield Problem(name, f"There is no such annotation. {remedy}")


def _parts(reader: _Reader, shared: str | None, base: BasePolicy | None) -> Parts:
    source = known.EGRESS if known.EGRESS in reader.annotations else known.KUBERNETES_EGRESS
    received = known.INGRESS if known.INGRESS in reader.annotations else known.KUBERNETES_INGRESS
    name = reader.read(known.POLICY, _config_map_name)
    document = None if base is None else base.document
    where, annotation = "" if base is None else base.name, known.POLICY if base is None or not base.name else ""
    if name is not None:
        document = reader.read(known.POLICY, lambda _: _shared_document(name, shared))
        where, annotation = f"ConfigMap {name}", known.POLICY
    return Parts(
        reader.read(source, lambda text: bandwidth(text.strip())),
        source,
        reader.read(known.CLASSES, _classes),
        reader.read(known.DEFAULT_CLASS, _default_class),
        document,
        where,
        annotation,
        reader.read(received, lambda text: bandwidth(text.strip())),
        received,
    )


def _config_map_name(text: str) -> str:
    if not _CONFIG_MAP.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not the name of a ConfigMap. Write its metadata.name, as in shared-lanes.")
    return text.strip()


def _shared_document(name: str, text: str | None) -> Mapping[str, Any]:
    if text is None:
        raise ValueError(
            f"The Pod's namespace has no ConfigMap {name} with the key {known.SHARED_POLICY_KEY}. "
            "Create it, or remove the annotation."
        )
    where = f"ConfigMap {name}, {known.SHARED_POLICY_KEY}"
    try:
        document = parse_document(text, source=where)
    except PolicyError as error:
        raise ValueError(str(error)) from None  # with where, as all that is said of a shared policy
    if not isinstance(document, dict):
        raise ValueError(
            f"{where}: This is not a policy. Write keys and values; docs/reference/policy.md has examples."
        )
    if "budget" in document:
        raise ValueError(
            f"{where}: A budget is shared by the Pods that a TrafficPolicy governs, not by those that name a "
            "ConfigMap. Remove budget there, or write the policy as a TrafficPolicy."
        )
    return document


def _classes(text: str) -> list[Any]:
    document = parse_document(text)
    if not isinstance(document, list):
        raise ValueError("This is not a list of classes. Start each class with '- ', as under classes in a policy.")
    return document


def _default_class(text: str) -> Mapping[str, Any]:
    document = parse_document(text)
    if not isinstance(document, dict):
        raise ValueError(f"{text!r} is not a mapping. Write keys and values, as in {{rate: 1Mbit, ceil: 50Mbit}}.")
    return document


def _limits_missing(annotations: Mapping[str, str], parts: Parts) -> Iterator[Problem]:
    """No total at all, and why that is."""
    if known.EGRESS in annotations or known.KUBERNETES_EGRESS in annotations:
        return  # when it cannot be read, that has been told
    if parts.shared is not None and "total" in parts.shared:
        return
    if known.POLICY in annotations:
        if parts.shared is None:
            return
        text = (
            f"{parts.shared_name} has no total, so the Pod must say what it may send in all. "
            "Add this annotation, as in 100M, or total to the ConfigMap."
        )
    elif known.CLASSES in annotations or known.DEFAULT_CLASS in annotations:
        text = "The classes have nothing to share. Add what the Pod may send in all, as in 100M."
    elif known.INGRESS in annotations or known.KUBERNETES_INGRESS in annotations:
        text = "What the Pod may receive is limited, what it may send is not. Add this annotation, as in 100M."
    else:
        text = (
            "The Pod is to carry Podlane, but no limit is set. Add this annotation, as in 100M, "
            f"or {known.POLICY} with the name of a ConfigMap; "
            f'or set the Pod\'s label {known.INJECT_LABEL} to "false" or {known.MODE_LABEL} to "none".'
        )
    yield Problem(known.EGRESS, text)


def _resources(reader: _Reader) -> Resources:
    resources = Resources(
        reader.read(known.CPU_REQUEST, parse_cpu),
        reader.read(known.CPU_LIMIT, parse_cpu),
        reader.read(known.MEMORY_REQUEST, parse_memory),
        reader.read(known.MEMORY_LIMIT, parse_memory),
    )
    for request, limit, name, other in (
        (resources.cpu_request, resources.cpu_limit, known.CPU_REQUEST, known.CPU_LIMIT),
        (resources.memory_request, resources.memory_limit, known.MEMORY_REQUEST, known.MEMORY_LIMIT),
    ):
        if request is not None and limit is not None and request.value > limit.value:
            reader.problems.append(
                Problem(name, f"{request} is more than the limit of {limit}. Lower it, or raise {other}.")
            )
    return resources


def _warnings(annotations: Mapping[str, str], parts: Parts) -> Iterator[str]:
    if parts.total_from == known.EGRESS:
        yield from _overruled(annotations, known.KUBERNETES_EGRESS, known.EGRESS, parts.total)
    if parts.received_from == known.INGRESS:
        yield from _overruled(annotations, known.KUBERNETES_INGRESS, known.INGRESS, parts.received)


def _neighbours(annotations: Mapping[str, str], parts: Parts, base: BasePolicy | None) -> Iterator[str]:
    """Warnings where who wrote a policy for many Pods may not know that one of them has an annotation for others."""
    if base is None:
        return
    whose = base.name or "the control plane's policy"
    for place, used, theirs in (
        ("total", parts.total_from, known.KUBERNETES_EGRESS),
        ("ingress.total", parts.received_from, known.KUBERNETES_INGRESS),
    ):
        if used == theirs and theirs in annotations:
            yield (
                f"{theirs} takes the place of {place} of {whose}. A bandwidth plugin of the node, as CNI's or Cilium's "
                "bandwidth manager, holds the Pod to it, too, and knows no classes. Remove the annotation to have the "
                "policy alone."
            )


def _overruled(annotations: Mapping[str, str], theirs: str, ours: str, rate: Rate | None) -> Iterator[str]:
    """Warnings about an annotation of the bandwidth plugins that differs from ours."""
    other = annotations.get(theirs)
    if other is None or rate is None:
        return
    try:
        least = bandwidth(other.strip())
    except ValueError:
        yield f"{theirs} cannot be read ({other!r}); {ours} is what counts here."
        return
    if least < rate:
        yield (
            f"{ours} is what counts here, but a network plugin may hold the Pod to "
            f"{theirs}, which is less ({bandwidth_text(least)})."
        )
