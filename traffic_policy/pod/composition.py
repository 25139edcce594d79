"""One policy out of a Pod's own annotations and the policy it shares with others. Pure.

What the Pod says itself wins. Its total and its default class take the place of the shared ones. Its classes come
before the shared classes, so that they decide first, and replace those of the same name; shared matches that can decide
nothing any more are left out, as is a class without any left.

The whole is checked as one policy, and every problem is told under the annotation in which it can be mended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from traffic_policy.errors import PolicyError, Problem
from traffic_policy.overlap import ComparisonError, EarlierMatches
from traffic_policy.pod.annotations import (
    CLASSES,
    DEFAULT_CLASS,
    EGRESS,
    INGRESS,
    KUBERNETES_EGRESS,
    POLICY,
    SHARED_POLICY_KEY,
)
from traffic_policy.pod.quantities import bandwidth_text
from traffic_policy.policy import TrafficClass, TrafficPolicy
from traffic_policy.policy_file import policy_from_document
from traffic_policy.scope import beyond_marks
from traffic_policy.units import Rate

_CLASS_PATH: Final = re.compile(r"classes\[(\d+)\]")
_RAISE_TOTAL: Final = re.compile(r"raise total to ([0-9.]+[A-Za-z]+)")
_RAISE_RECEIVED: Final = re.compile(r"raise ingress\.total to ([0-9.]+[A-Za-z]+)")
_ADD_RECEIVED: Final = "Add it at the top, as in ingress: {total: 100Mbit}."
_ROOM: Final = Rate.parse("10Tbit")
"""Stands for a total that cannot be read, so that what else is wrong can be told at once."""
MOST_MATCHES: Final = 500
"""Each is a rule or more that packets pass; finding those that hide others takes 0.2 s, and grows with the square."""


@dataclass(frozen=True, slots=True)
class BasePolicy:
    """The policy that a Pod has beneath what its annotations say, from where no annotation names it.

    ``name`` is that in messages, as ``TrafficPolicy web``; empty: it is of a control plane.
    """

    document: Mapping[str, Any]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts to compose. None: absent, or invalid, which the caller has reported.

    ``total_from`` is the annotation that gave ``total``, ``received_from`` that which gave ``received``, the total of
    what arrives; ``shared_name`` is where ``shared`` comes from, as ``ConfigMap lanes``; empty: from a control plane.
    ``shared_annotation`` is the annotation that names it; empty: none does.
    """

    total: Rate | None = None
    total_from: str = EGRESS
    classes: list[Any] | None = None
    default: Mapping[str, Any] | None = None
    shared: Mapping[str, Any] | None = None
    shared_name: str = ""
    shared_annotation: str = POLICY
    received: Rate | None = None
    received_from: str = INGRESS


@dataclass(slots=True)
class Composition:
    """The outcome: a policy, unless there are ``problems``."""

    policy: TrafficPolicy | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def compose(parts: Parts) -> Composition:
    """Make and check the policy. Without any total there is one that is too large to be true, and no policy."""
    done = Composition()
    own = parts.classes or []
    count = _count_matches(own) + _count_matches((parts.shared or {}).get("classes"))
    if count > MOST_MATCHES:
        together = ", with those of the shared policy," if own and parts.shared else ""
        text = (
            f"{count} matches{together} are more than a Pod's policy may have. "
            f"Merge them into {MOST_MATCHES} or fewer: a match may list many names, ports and networks."
        )
        return Composition(problems=[Problem(CLASSES if own else POLICY, text)])
    shared, places = _shared_classes(parts, done)
    document: dict[str, Any] = {**(parts.shared or {})}
    if parts.total is not None or "total" not in document:
        document["total"] = parts.total or _ROOM
    if parts.received is not None:
        document["ingress"] = {"total": parts.received}
    document["classes"] = [*own, *shared]
    if parts.default is not None:
        document["default"] = parts.default
    try:
        policy = policy_from_document(document)
        found = beyond_marks(policy)
    except PolicyError as error:
        found = list(error.problems)
    else:
        done.policy = policy
    done.problems += [_told(problem, parts, places) for problem in found]
    return done


def _count_matches(classes: object) -> int:
    """A class counts as one match at least, whatever it is."""
    written = [c.get("match") if isinstance(c, dict) else None for c in classes] if isinstance(classes, list) else []
    return sum(max(1, len(matches)) if isinstance(matches, list) else 1 for matches in written)


def _shared_classes(parts: Parts, done: Composition) -> tuple[list[Any], list[int]]:
    """The shared classes that the Pod's own leave over, and where each stands in the shared policy."""
    classes = (parts.shared or {}).get("classes", [])
    if not isinstance(classes, list):
        text = f"classes: {classes!r} is not a list. Start each entry with '- '."
        done.problems.append(Problem(parts.shared_annotation, _in_shared_policy(parts, text)))
        return [], []
    taken = [_name(c) for c in parts.classes or () if _name(c)]
    left = [(i, c) for i, c in enumerate(classes) if _name(c) not in taken]
    if parts.classes:
        with suppress(ComparisonError):  # checking the whole compares more, and tells it
            left = list(_reachable(parts.classes, left, parts.shared_name, done.warnings))
    return [c for _, c in left], [i for i, _ in left]


def _name(written: Any) -> str | None:
    name = written.get("name") if isinstance(written, dict) else None
    return name if isinstance(name, str) else None


def _reachable(
    own: list[Any], shared: list[tuple[int, Any]], name: str, warnings: list[str]
) -> Iterator[tuple[int, Any]]:
    """Shared classes without the matches of which the Pod's own classes take everything."""
    earlier = EarlierMatches()
    try:
        for each in own:
            for match in TrafficClass.model_validate(each).match:
                for part in match.expanded():
                    earlier.add("", part)
        checked = [TrafficClass.model_validate(each) for _, each in shared]
    except ValidationError:
        # What is wrong there is told when the whole is checked.
        yield from shared
        return
    for (place, written), traffic_class in zip(shared, checked, strict=True):
        matches = written["match"] if isinstance(written["match"], list | tuple) else [written["match"]]
        left = [
            each
            for each, match in zip(matches, traffic_class.match, strict=True)
            if any(earlier.hiding(part) is None for part in match.expanded())
        ]
        if len(left) == len(matches):
            yield place, written
        elif left:
            yield place, {**written, "match": left}
        else:
            warnings.append(
                f"Class {traffic_class.name} of {name or 'the shared policy'} is left out: "
                f"the classes of {CLASSES} take all of its traffic."
            )


def _told(problem: Problem, parts: Parts, places: list[int]) -> Problem:
    """A problem of the whole, under the annotation that it comes from and with the paths that are written there."""
    own = len(parts.classes or ())
    match = _CLASS_PATH.match(problem.path)
    head = re.split(r"[.\[]", problem.path, maxsplit=1)[0]
    if match:
        annotation = CLASSES if int(match[1]) < own else POLICY
    elif head == "total":
        annotation = parts.total_from if parts.total is not None or parts.shared is None else POLICY
    elif head == "ingress" and (parts.received is not None or parts.shared is None):
        annotation = parts.received_from
    elif head == "default" and (parts.default is not None or parts.shared is None):
        annotation = DEFAULT_CLASS
    elif head == "classes" and own:
        annotation = CLASSES
    else:
        annotation = POLICY if parts.shared is not None else EGRESS

    def shared_place(found: re.Match[str]) -> str:
        index = int(found[1]) - own
        return f"classes[{places[index]}]" if 0 <= index < len(places) else found[0]

    text = _CLASS_PATH.sub(shared_place, str(problem)) if annotation == POLICY else str(problem)
    if parts.total is not None:
        text = _RAISE_TOTAL.sub(lambda m: f"raise {EGRESS} to {bandwidth_text(Rate.parse(m[1]))}", text)
    if parts.received is not None or annotation != POLICY:
        text = _RAISE_RECEIVED.sub(lambda m: f"raise {INGRESS} to {bandwidth_text(Rate.parse(m[1]))}", text)
        text = text.replace(_ADD_RECEIVED, f"Add {INGRESS}, as in 100M.")
    if annotation == POLICY:
        return Problem(parts.shared_annotation, _in_shared_policy(parts, text))
    if annotation in (EGRESS, KUBERNETES_EGRESS):
        text = text.removeprefix("total: ")
    elif annotation == parts.received_from:
        text = text.removeprefix("ingress.total: ").removeprefix("ingress: ")
    elif annotation == DEFAULT_CLASS:
        text = re.sub(r"^default[.:] ?", "", text)
    return Problem(annotation, text)


def _in_shared_policy(parts: Parts, text: str) -> str:
    """With where that is; of the control plane's it is known."""
    if not parts.shared_name:
        return text
    key = f", {SHARED_POLICY_KEY}" if parts.shared_annotation else ""
    return f"{parts.shared_name}{key}: {text}"
