"""A YAML stream as a tree of nodes with their positions in the text. Pure.

PyYAML's own composer loses the positions of aliases. This tree is built from the same parser's events, and has the span
of every node, so that text can be inserted between nodes, and all other text stays unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from injector.errors import ManifestError

LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser if PyYAML has it: some twenty times as fast, and it accepts tabs in JSON."""


@dataclass(slots=True)
class YamlNode:
    """A node; ``start`` and ``end`` are indices into the text. This class itself: a scalar, or an alias."""

    start: int
    end: int
    alias: bool = False
    anchor: str | None = None
    value: str | None = None


@dataclass(slots=True)
class Collection(YamlNode):
    """A sequence or a mapping. ``flow``: in brackets, as all of JSON; else ``end`` is that of the last item."""

    flow: bool = False


@dataclass(slots=True)
class ListNode(Collection):
    """A list."""

    items: tuple[YamlNode, ...] = ()


@dataclass(slots=True)
class MappingNode(Collection):
    """Keys and values, in their order."""

    pairs: tuple[tuple[YamlNode, YamlNode], ...] = ()

    def get(self, key: str) -> YamlNode | None:
        """The value of a key; of duplicate keys, the last counts."""
        return next((value for name, value in reversed(self.pairs) if name.value == key), None)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a stream: its tree, its data, its first line (from 1), the anchors in use."""

    root: YamlNode
    data: Any
    line: int
    aliases: frozenset[str | None]


def read(text: str) -> list[Document]:
    """All documents of a stream, including empty ones. Raises :class:`ManifestError` with the position."""
    try:
        roots = list(_roots(text))
        data = list(yaml.load_all(text, Loader=LOADER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        detail = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ManifestError(f"{place}Not valid YAML or JSON: {detail}. Mend the text there.") from None
    except ValueError as error:
        # PyYAML converts dates and numbers itself, and passes on Python's ValueError for 2020-13-45.
        raise ManifestError(f"Not valid YAML or JSON: {error}. Put the value in quotes.") from None
    except RecursionError:
        raise ManifestError("The text is nested too deeply to be a manifest.") from None
    return [
        Document(root, value, text.count("\n", 0, root.start) + 1, frozenset(_aliases(root)))
        for root, value in zip(roots, data, strict=True)
    ]


def _aliases(node: YamlNode) -> Iterator[str | None]:
    if node.alias:
        yield node.anchor
    elif isinstance(node, ListNode):
        for item in node.items:
            yield from _aliases(item)
    elif isinstance(node, MappingNode):
        for pair in node.pairs:
            yield from _aliases(pair[0])
            yield from _aliases(pair[1])


def _roots(text: str) -> Iterator[YamlNode]:
    events: Iterator[Any] = yaml.parse(text, Loader=LOADER)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            yield _node(next(events), events)


def _node(event: Any, events: Iterator[Any]) -> YamlNode:
    start, end = _index(event.start_mark), _index(event.end_mark)
    if isinstance(event, yaml.AliasEvent):
        return YamlNode(start, end, alias=True, anchor=event.anchor)
    if isinstance(event, yaml.ScalarEvent):
        return YamlNode(start, end, anchor=event.anchor, value=event.value)
    flow = bool(event.flow_style)
    children: list[YamlNode] = []
    for child in events:
        if isinstance(child, yaml.CollectionEndEvent):
            # In block style, the end event has the position of the next token.
            end = _index(child.end_mark) if flow or not children else children[-1].end
            break
        children.append(_node(child, events))
    if isinstance(event, yaml.SequenceStartEvent):
        return ListNode(start, end, anchor=event.anchor, flow=flow, items=tuple(children))
    pairs = tuple(zip(children[::2], children[1::2], strict=True))
    return MappingNode(start, end, anchor=event.anchor, flow=flow, pairs=pairs)


def _index(mark: Any) -> int:
    return int(mark.index)
