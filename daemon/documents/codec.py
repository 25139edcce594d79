"""Frozen dataclasses as JSON objects, and back. Pure.

A field is the key of its name. One that ends in an underscore has a keyword of Python for its key (``class_``). A field
whose default is None is left out while it is None; each other field is always there. Fields may be scalars, ``object``
(any JSON), dataclasses, ``tuple[X, ...]``, ``Mapping[str, X]``, and any of these ``| None``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from types import NoneType
from typing import Any, Final, TypeVar, cast, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


class DocumentError(Exception):
    """A document is not of the form that is expected; the text goes on after its name: ``lacks 'bytes'``."""


def to_json(document: object) -> Any:
    """A dataclass as a dictionary for :func:`json.dumps`."""
    kind: Any = type(document)
    return _form(kind).encode(document)


def from_json(kind: type[_T], value: object) -> _T:
    """A ``kind`` from what :func:`json.loads` gave. Unknown keys mean nothing. Raises :class:`DocumentError`."""
    return cast(_T, _form(cast(Any, kind)).decode(value))


def key_of(name: str) -> str:
    """The key of a field."""
    return name.rstrip("_")


@dataclass(frozen=True, slots=True)
class _Form:
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


_ANY: Final = _Form(_same, _same)


@cache
def _form(kind: Any) -> _Form:
    if kind is object:
        return _ANY
    if isinstance(kind, type) and is_dataclass(kind):
        return _object(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if NoneType in arguments:
        (inner,) = (each for each in arguments if each is not NoneType)
        return _optional(_form(inner))
    if origin is tuple:
        return _list(_form(arguments[0]))
    if origin is Mapping:
        return _mapping(_form(arguments[1]))
    return _Form(_same, _scalar(kind))


def _scalar(kind: type) -> Callable[[Any], Any]:
    allowed = (int, float) if kind is float else (kind,)

    def decode(value: Any) -> Any:
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise DocumentError(f"has {value!r:.40} where a {kind.__name__} belongs")
        return kind(value)

    return decode


def _optional(inner: _Form) -> _Form:
    return _Form(
        _same if inner.encode is _same else lambda value: None if value is None else inner.encode(value),
        lambda value: None if value is None else inner.decode(value),
    )


def _list(item: _Form) -> _Form:
    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise DocumentError(f"has {value!r:.40} where a list belongs")
        return tuple(map(item.decode, value))

    return _Form(list if item.encode is _same else lambda value: list(map(item.encode, value)), decode)


def _mapping(item: _Form) -> _Form:
    def decode(value: Any) -> Any:
        _check_object(value)
        return {key: item.decode(each) for key, each in value.items()}

    return _Form(lambda value: {key: item.encode(each) for key, each in value.items()}, decode)


def _object(kind: Any) -> _Form:
    hints = get_type_hints(kind)
    members = [(f.name, key_of(f.name), f.default is None, _form(hints[f.name])) for f in fields(kind)]
    assert all(f.default in (MISSING, None) for f in fields(kind)), "only None can be told from what is left out"
    assert len(members) > 1, "attrgetter gives a tuple of two or more"

    # Few steps per field: 5,000 connections are written by the event loop that relays them.
    values = attrgetter(*(name for name, *_ in members))
    keys = [key for _, key, *_ in members]
    nested = [(key, form.encode) for _, key, _, form in members if form.encode is not _same]
    left_out = [key for _, key, may_lack, _ in members if may_lack]

    def encode(value: Any) -> dict[str, Any]:
        made = dict(zip(keys, values(value), strict=True))
        for key, encode_member in nested:
            made[key] = encode_member(made[key])
        for key in left_out:
            if made[key] is None:
                del made[key]
        return made

    def decode(value: Any) -> Any:
        _check_object(value)
        made = {}
        for name, key, may_lack, form in members:
            if key in value:
                made[name] = form.decode(value[key])
            elif not may_lack:
                raise DocumentError(f"lacks {key!r}")
        return kind(**made)

    return _Form(encode, decode)


def _check_object(value: Any) -> None:
    if not isinstance(value, dict):
        raise DocumentError(f"has {value!r:.40} where an object belongs")
