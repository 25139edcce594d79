"""Structural schemas, which definitions of Kubernetes objects have, out of pydantic's. Pure.

A structural schema has no ``$ref``, one ``type`` at each place, and no ``anyOf`` but for numbers that may be text
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema).
So a list is always a list there: the policy grammar, in its long form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_KEPT: Final = ("type", "description", "enum", "pattern", "minimum", "maximum", "minItems", "minLength", "maxLength")
_LONGEST_TEXT: Final = 255
_LONGEST: Final = 1000
"""Entries of a list for which nothing else is said. The cost of rules is estimated by it."""


def structural(schema: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """The structural schema of a model's JSON schema. ``lengths`` has the most entries of lists, by key."""
    return _converted(schema, schema.get("$defs", {}), lengths, "")


def _converted(
    written: Mapping[str, Any], definitions: Mapping[str, Any], lengths: Mapping[str, int], key: str
) -> dict[str, Any]:
    found = _resolved(written, definitions)
    alternatives = [each for each in found.get("anyOf", ()) if each.get("type") != "null"]
    if alternatives:
        several = [each for each in alternatives if each.get("type") == "array"]
        if {each.get("type") for each in alternatives} == {"integer", "string"}:
            return _number_or_text(found, alternatives)
        chosen = several[0] if several else alternatives[0]
        about = {"description": found["description"]} if "description" in found else {}
        return _converted({**chosen, **about}, definitions, lengths, key)
    made: dict[str, Any] = {name: found[name] for name in _KEPT if name in found}
    if "description" in found:
        made["description"] = _sentence(found["description"])
    if found.get("type") == "object":
        if "properties" in found:
            made["properties"] = {
                name: _converted(each, definitions, lengths, name) for name, each in found["properties"].items()
            }
            if found.get("required"):
                made["required"] = list(found["required"])
        elif isinstance(found.get("additionalProperties"), dict):
            made["additionalProperties"] = _converted(found["additionalProperties"], definitions, lengths, key)
            made["maxProperties"] = lengths.get(key, _LONGEST)
    elif found.get("type") == "array":
        made["items"] = _converted(found["items"], definitions, lengths, key)
        made["maxItems"] = lengths.get(key, _LONGEST)
    elif found.get("type") == "string" and "enum" not in found:
        made.setdefault("maxLength", 32 if "pattern" in found else _LONGEST_TEXT)
    return made


def _resolved(written: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """What a reference names; what is said beside it, as the description, wins."""
    name = written.get("$ref")
    if name is None:
        return dict(written)
    beside = {key: value for key, value in written.items() if key != "$ref"}
    return {**_resolved(definitions[name.rpartition("/")[2]], definitions), **beside}


def _number_or_text(found: Mapping[str, Any], alternatives: list[Mapping[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    for each in alternatives:
        made |= {name: each[name] for name in _KEPT if name in each and name != "type"}
    if "description" in found:
        made["description"] = _sentence(found["description"])
    made["maxLength"] = 32
    return made


def _sentence(text: str) -> str:
    """A description as ``kubectl explain`` prints them."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) else ".")


def described(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each property of a structural schema with its path: ``spec.classes[].match[].sni``."""
    for name, each in schema.get("properties", {}).items():
        inside = f"{path}.{name}" if path else name
        yield inside, each
        yield from described(each, inside)
    if "items" in schema:
        yield from described(schema["items"], f"{path}[]")
