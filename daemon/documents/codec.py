"""Frozen dataclasses to JSON objects and back. Pure.

A field is the key of its name. A field whose name ends in an underscore has a Python keyword as its key (``class_``). A
field whose default is None is omitted while it is None; each other field is always present.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

_T = TypeVar("_T")
_KINDS: Final = {
    "dataclass_type": "an object", "dict_type": "an object", "tuple_type": "a list",
    "int_type": "a int", "float_type": "a float", "string_type": "a str", "bool_type": "a bool",
}  # fmt: skip
"""Messages that pydantic's errors lack."""


class DocumentError(Exception):
    """A document does not have the expected form; the message continues its name: ``lacks 'bytes'``."""


def to_json(document: object) -> Any:
    """A dataclass as a dictionary for :func:`json.dumps`."""
    kind: Any = type(document)
    return _adapter(kind).dump_python(document, mode="json", by_alias=True, exclude_defaults=True)


def to_bytes(document: object) -> bytes:
    """The same as JSON text on one line, for large documents: ten times as fast."""
    kind: Any = type(document)
    return _adapter(kind).dump_json(document, by_alias=True, exclude_defaults=True)


def from_json(kind: type[_T], value: object) -> _T:
    """A ``kind`` from the result of :func:`json.loads`. Unknown keys are ignored. Raises :class:`DocumentError`."""
    try:
        return cast(_T, _adapter(cast(Any, kind)).validate_json(json.dumps(value)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "missing":
            raise DocumentError(f"lacks {first['loc'][-1]!r}") from None
        belongs = _KINDS.get(first["type"], "something else")
        raise DocumentError(f"has {first['input']!r:.40} where {belongs} belongs") from None


def key_of(name: str) -> str:
    """The JSON key of a field."""
    return name.rstrip("_")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # Only a union accepts a configuration here, which its members inherit.
    return TypeAdapter(kind | None, config=ConfigDict(strict=True, alias_generator=key_of))
