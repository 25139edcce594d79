"""Adds to and removes from YAML text, leaving every other character unchanged. Pure.

Each edit is a span of the text and its replacement. All edits of a text are applied at once, so that positions found
beforehand stay valid.

Block style: additions get lines of their own, after the line of a key or after the last line of the preceding item, so
that comments stay with their subject. Flow style, including JSON: between the neighbours, on lines of its own if they
have such. Removing an addition restores the old text to the byte.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import yaml

from injector.errors import ManifestError
from injector.manifests.yaml_tree import ListNode, MappingNode, YamlNode

_INDENT: Final = 2
"""Default indentation of a new list under its key, if no other list in the text shows one."""


@dataclass(frozen=True, slots=True)
class Edit:
    """``text`` replaces the characters from ``start`` to ``end``."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits applied; at the same position, in their order, removals last."""
    parts, done = [], 0
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        if edit.start < done:
            raise ManifestError("Two changes meet at one place. Write each item and key on a line of its own.")
        parts += [text[done : edit.start], edit.text]
        done = edit.end
    return "".join([*parts, text[done:]])


class Editor:
    """Makes edits for one text, which ends with a line break; all positions refer to the unedited text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def add(self, key: str, value: str | list[Any] | dict[str, str], into: MappingNode, holder: YamlNode) -> Edit:
        """Add a key with a text, a list or texts by key to a mapping, the value of the key ``holder``."""
        if into.flow:
            return self._flow_pair(key, value, into)
        text = _dump({key: value})
        if isinstance(value, list):
            text = f"{key}:\n{textwrap.indent(_dump(value), ' ' * self._list_indent(into))}"
        return self._lines(self._next_line(holder.end), text, self._column(into.pairs[0][0].start))

    def remove_key(self, key: str, out_of: MappingNode) -> Edit:
        """Remove a key and its value from a mapping."""
        i = next(i for i, (name, _) in enumerate(out_of.pairs) if name.value == key)
        start, end = out_of.pairs[i][0].start, out_of.pairs[i][1].end
        if not out_of.flow:
            return self._whole_lines(start, end, "")
        if i + 1 < len(out_of.pairs):
            return Edit(start, out_of.pairs[i + 1][0].start, "")
        return Edit(out_of.pairs[i - 1][1].end if i else start, end, "")

    def change_list(
        self, nodes: ListNode, removed: Sequence[int], added: Sequence[tuple[int, Any]], holder: YamlNode
    ) -> Iterator[Edit]:
        """Remove items (old indices) and add others (new index, and item); ``holder`` is the list's key."""
        kept = [node for i, node in enumerate(nodes.items) if i not in removed]
        # Group additions by the remaining item that they follow; None: at the start.
        behind = [(index - n, item) for n, (index, item) in enumerate(added)]
        groups = [(count, [item for _, item in group]) for count, group in groupby(behind, key=lambda pair: pair[0])]
        if nodes.flow:
            yield from self._flow_removals(nodes, removed)
            yield from (self._flow_items(items, count, kept, nodes) for count, items in groups)
            return
        yield from (self._whole_lines(node.start, node.end, "-") for i, node in enumerate(nodes.items) if i in removed)
        column = self._dash_column(nodes)
        for count, items in groups:
            place = self._line_after(kept[count - 1].end) if count else self._next_line(holder.end)
            yield self._lines(place, _dump(items), column)

    # --- block style ---------------------------------------------------------------------------------------------

    def _lines(self, place: int, text: str, column: int) -> Edit:
        return Edit(place, place, textwrap.indent(text, " " * column).replace("\n", self._newline))

    def _whole_lines(self, start: int, end: int, mark: str) -> Edit:
        """Remove the lines that a node has to itself, except ``mark`` in front of it."""
        line = self._line_start(start)
        if self._text[line:start].strip() != mark:
            raise ManifestError("What is to be removed shares its line. Write each item and key on a line of its own.")
        return Edit(line, self._line_after(end), "")

    def _line_start(self, place: int) -> int:
        return self._text.rfind("\n", 0, place) + 1

    def _next_line(self, place: int) -> int:
        return self._text.index("\n", place) + 1

    def _line_after(self, end: int) -> int:
        """The first line after a node that ends here; a block scalar includes its last line break."""
        return end if self._text[end - 1] == "\n" else self._next_line(end)

    def _column(self, place: int) -> int:
        return place - self._line_start(place)

    def _dash_column(self, nodes: ListNode) -> int:
        """The column of a list's dashes. Its node may start with an anchor, on the line of the key."""
        place = nodes.start
        while self._text[place] != "-":
            place = self._next_line(place)
            place += len(self._text[place:]) - len(self._text[place:].lstrip(" "))
        return self._column(place)

    def _list_indent(self, beside: MappingNode) -> int:
        for key, value in beside.pairs:
            if isinstance(value, ListNode) and not value.flow:
                return self._dash_column(value) - self._column(key.start)
        return _INDENT

    # --- flow style ----------------------------------------------------------------------------------------------

    def _flow_pair(self, key: str, value: Any, into: MappingNode) -> Edit:
        neighbour = into.pairs[0][0] if into.pairs else None
        lead = self._own_line(neighbour)
        text = f"{json.dumps(key)}: {_json(value, lead)}"
        if neighbour is None:
            return self._insert(self._inside(into.start, "{"), text)
        return self._insert(neighbour.start, f"{text}, " if lead is None else f"{text},\n{lead}")

    def _flow_items(self, items: Sequence[Any], count: int, kept: Sequence[YamlNode], nodes: ListNode) -> Edit:
        """The position after the first ``count`` remaining items."""
        lead = self._own_line(kept[0] if kept else None)
        comma = ", " if lead is None else f",\n{lead}"
        text = comma.join(_json(item, lead) for item in items)
        if count:
            return self._insert(kept[count - 1].end, comma + text)
        return self._insert(kept[0].start, text + comma) if kept else self._insert(self._inside(nodes.start, "["), text)

    def _flow_removals(self, nodes: ListNode, removed: Sequence[int]) -> Iterator[Edit]:
        """Runs of adjacent items to remove, each with its comma."""
        for gone, run in groupby(range(len(nodes.items)), key=lambda i: i in removed):
            if not gone:
                continue
            indices = list(run)
            first, last = indices[0], indices[-1]
            start, end = nodes.items[first].start, nodes.items[last].end
            if first:
                start = nodes.items[first - 1].end
            elif last + 1 < len(nodes.items):
                end = nodes.items[last + 1].start
            yield Edit(start, end, "")

    def _insert(self, place: int, text: str) -> Edit:
        return Edit(place, place, text.replace("\n", self._newline))

    def _inside(self, start: int, bracket: str) -> int:
        return self._text.index(bracket, start) + 1

    def _own_line(self, node: YamlNode | None) -> str | None:
        """The text in front of a node that begins its line; None if it does not."""
        if node is None:
            return None
        lead = self._text[self._line_start(node.start) : node.start]
        return lead if not lead.strip() else None


class _Dumper(yaml.SafeDumper):
    """Quotes texts that other YAML parsers read as numbers, such as 1e3, which Kubernetes' does and PyYAML does not."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    try:
        float(value)
    except ValueError:
        return dumper.represent_str(value)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'")


_Dumper.add_representer(str, _text)


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**6)


def _json(value: Any, lead: str | None) -> str:
    """On one line, or on several that begin with ``lead``."""
    if lead is None:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", f"\n{lead}")
