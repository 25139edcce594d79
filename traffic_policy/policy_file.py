"""Policies from YAML and JSON text: parsing, and errors that name the place, the problem and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from traffic_policy.check import check, rate_is_missing
from traffic_policy.errors import PolicyError, Problem
from traffic_policy.policy import (
    Bound,
    ClassIngress,
    DefaultClass,
    Ingress,
    Match,
    Queue,
    Quic,
    Rehearsal,
    Requests,
    Shaper,
    TrafficClass,
    TrafficPolicy,
    TransportProtocol,
)
from traffic_policy.scope import beyond_sidecar
from traffic_policy.units import Rate

# 254 classes with a dozen names each are some 200 kB; more than this is not a policy but a mistake.
_MAX_TEXT = 4 * 2**20
_SHORT_TEXT: Final = 2**14
"""Characters that PyYAML's own parser reads in some 50 ms."""
_MANY_VALUES: Final = 10_000
"""Values that a short text may stand for by aliases. Without aliases there are fewer values than characters."""
_MOST_VALUES: Final = 100_000
"""Values of a text, which take a second to read; libyaml lets no other thread run meanwhile."""
_SEPARATORS: Final = (",", "\n", "[", "{", "- ", ": ", "? ", '":')
"""At least one of them stands before or after each value but the last."""
_EXPLAINED: Final = 200
"""Problems of single values that are explained; a text may have one for every three characters."""
_LONGEST_NUMBER: Final = 100
"""Characters of a whole number. Python refuses to write numbers of thousands of digits, which YAML can also have as
0xff..., and it takes quadratic time to read 1:59:59..."""

_EXPECTED = {
    "total": "Add the bandwidth of the interface, as in total: 100Mbit.",
    "rate": "Add what is guaranteed to the class of what it receives, as in rate: 10Mbit.",
    "name": "Give the class a name, as in name: api.",
    "match": 'Say which traffic belongs to the class, as in match: [{sni: ["*.example.com"]}].',
}

_CHOICES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "protocol": ("protocol", tuple(TransportProtocol)),
    "shaper": ("shaper", tuple(Shaper)),
    "queue": ("queue", tuple(Queue)),
    "direction": ("direction", tuple(Bound)),
    "requests": ("way of treating requests", tuple(Requests)),
    "quic": ("way of treating QUIC", tuple(Quic)),
}
"""What a key with fixed values holds, and which there are."""


def _refusal(message: str, remedy: str, source: str) -> PolicyError:
    return PolicyError([Problem("", message, remedy)], source)


def load_policy(path: Path | str, *, total: Rate | None = None) -> TrafficPolicy:
    """The policy in a file. ``total`` replaces the file's own. Raises :class:`PolicyError`, also when unreadable."""
    source = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refusal(f"The policy cannot be read: {reason}.", "Name another.", source) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(f"Not UTF-8 text (byte {error.start}).", "Save it as UTF-8.", source) from None
    return parse_policy(text, source=source, total=total)


def load_sidecar_policy(path: Path | str, *, total: Rate | None = None) -> TrafficPolicy:
    """The policy in a file, as :func:`load_policy` reads it.

    Also raises :class:`PolicyError` for a policy that the sidecar cannot implement: ignoring a part would break a
    limit.
    """
    policy = load_policy(path, total=total)
    if problems := beyond_sidecar(policy):
        raise PolicyError(problems, str(path))
    return policy


def parse_policy(text: str, *, source: str = "", total: Rate | None = None) -> TrafficPolicy:
    """The policy in YAML or JSON text (JSON is YAML); raises :class:`PolicyError` with every problem there is."""
    return policy_from_document(parse_document(text, source=source), source=source, total=total)


def parse_document(text: str, *, source: str = "") -> object:
    """The plain data in YAML or JSON text, of a policy or of a part of one; raises :class:`PolicyError`."""
    if len(text) > _MAX_TEXT:
        raise _refusal(f"{len(text)} characters are too long for a policy.", "Shorten it.", source)
    if sum(map(text.count, _SEPARATORS)) > _MOST_VALUES:
        raise _refusal(f"More than {_MOST_VALUES} values and lines are too many for a policy.", "Shorten it.", source)
    try:
        document = _load(text)
        values = _count(document, {})
    except yaml.YAMLError as error:
        raise PolicyError([_yaml_problem(error)], source) from None
    except ValueError as error:
        # PyYAML reads dates and numbers by itself, and lets Python's complaint about 2020-13-45 through as it is.
        raise _refusal(f"Not valid YAML or JSON: {error}.", "Put the value in quotes.", source) from None
    except RecursionError:
        raise _refusal("The text is nested too deeply.", "See docs/reference/policy.md.", source) from None
    if values > max(len(text), _MANY_VALUES):
        raise _refusal("By its aliases the text stands for too much.", "Write it without.", source)
    return document


def _load(text: str) -> object:
    """libyaml reads ten times as fast as PyYAML itself, which says better what is wrong with a text."""
    try:
        return yaml.load(text, Loader=_FastLoader)
    except (yaml.YAMLError, ValueError):
        if len(text) > _SHORT_TEXT:
            raise
        return yaml.load(text, Loader=_UniqueKeyLoader)


def _count(document: object, known: dict[int, int]) -> int:
    """How many values a document has when each alias is written out. Raises RecursionError when it holds itself.

    A list of aliases of a list of aliases ... takes a line for each step, and ten times as long to read.
    """
    if not isinstance(document, dict | list):
        return 1
    if id(document) not in known:
        inside = document.values() if isinstance(document, dict) else document
        known[id(document)] = 1 + sum(_count(value, known) for value in inside)
    return known[id(document)]


def policy_from_document(document: object, *, source: str = "", total: Rate | None = None) -> TrafficPolicy:
    """The policy in plain data (dicts and lists); raises :class:`PolicyError`."""
    if not isinstance(document, dict):
        found = "empty" if document is None else f"a {type(document).__name__}"
        what = f"A policy is a mapping with total and classes, but this is {found}."
        raise _refusal(what, "See docs/reference/policy.md.", source)
    if total is not None:
        document = {**document, "total": total}
    try:
        policy = TrafficPolicy.model_validate(document)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        problems = [_problem(e) for e in wrong[:_EXPLAINED]]
        if len(wrong) > _EXPLAINED:
            problems.append(Problem("", f"{len(wrong) - _EXPLAINED} further values are wrong.", "Mend these first."))
        raise PolicyError(problems + list(islice(_missing_rates(document), _EXPLAINED)), source) from None
    if problems := check(policy):
        raise PolicyError(problems, source)
    return policy


def _missing_rates(document: dict[Any, Any]) -> Iterator[Problem]:
    """Classes without a rate in a document that cannot be checked any further, so that they are told at once."""
    classes = document.get("classes")
    if document.get("shaper", Shaper.HTB) != Shaper.HTB or not isinstance(classes, list):
        return
    for i, traffic_class in enumerate(classes):
        if isinstance(traffic_class, dict) and "rate" not in traffic_class:
            yield rate_is_missing(f"classes[{i}]")


def dump_policy(policy: TrafficPolicy) -> str:
    """YAML text that loads as an equal policy."""
    return yaml.safe_dump(policy.to_document(), sort_keys=False, allow_unicode=True)


class _UniqueKeys(yaml.constructor.SafeConstructor):
    """Refuses a key written twice, of which YAML silently keeps the last, and numbers without end."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        is_whole = node.tag == "tag:yaml.org,2002:int"
        if is_whole and isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_NUMBER:
            what = f"a number of {len(node.value)} characters is too long"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError):
            # PyYAML's answers to values that are not of their tag: !!bool x, !!timestamp x, !!int ""
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this is no {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # not so for !!map [x]
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice; keep one", key_node.start_mark
                )
            seen.add(key if isinstance(key, Hashable) else repr(key))
        return super().construct_mapping(node, deep)


class _UniqueKeyLoader(_UniqueKeys, yaml.SafeLoader):
    """PyYAML's own parser."""


class _FastLoader(_UniqueKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's, where PyYAML was built with it."""


def _yaml_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    detail = getattr(error, "problem", None) or str(error).partition("\n")[0]
    remedy = "Mend the text there; docs/reference/policy.md has examples."
    return Problem(place, f"Not valid YAML or JSON: {detail}.", remedy)


def _problem(error: Any) -> Problem:
    location: tuple[int | str, ...] = error["loc"]
    path = _path(location)
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown_key(location)
    if kind == "missing":
        key = str(location[-1])
        return Problem(_path(location[:-1]), f"{key} is missing.", _EXPECTED.get(key, f"Add {key}."))
    if kind in ("value_error", "assertion_error"):
        return Problem(path, str(error["ctx"]["error"]))
    if kind == "enum":
        what, choices = _CHOICES[next(p for p in reversed(location) if isinstance(p, str))]
        return Problem(path, f"{value!r} is not a {what}.", f"Write {', '.join(choices[:-1])} or {choices[-1]}.")
    if location[-1:] == ("priority",):
        return Problem(path, f"{value!r} is not a priority.", "Write a whole number from 0 (first) to 7 (last).")
    if kind in ("model_type", "model_attributes_type"):
        keys = ", ".join(_model_at(location).model_fields)
        return Problem(path, f"{value!r} is not a mapping.", f"Write keys and values; the keys are {keys}.")
    if kind in ("tuple_type", "list_type"):
        return Problem(path, f"{value!r} is not a list.", "Start each entry with '- '.")
    if kind == "string_type":
        return Problem(path, f"{value!r} is not text.", "Put it in quotes.")
    return Problem(path, f"{error['msg']} ({value!r}).", "See docs/reference/policy.md.")


def _unknown_key(location: tuple[int | str, ...]) -> Problem:
    key, model = str(location[-1]), _model_at(location[:-1])
    known = list(model.model_fields)
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]}?" if near else f"The keys here are {', '.join(known)}."
    return Problem(_path(location[:-1]), f"There is no key {key}.", remedy)


def _model_at(location: Sequence[int | str]) -> type[BaseModel]:
    names = [part for part in location if isinstance(part, str)]
    if "match" in names:
        return Match
    if "rehearsal" in names:
        return Rehearsal
    in_class = "classes" in names or "default" in names
    if "ingress" in names:
        return ClassIngress if in_class else Ingress
    if "classes" in names:
        return TrafficClass
    return DefaultClass if in_class else TrafficPolicy


def _path(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text
