"""Changes to JSON that leave it JSON: libFuzzer's own changes of bytes hardly ever do. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

_OTHERS: Final = (
    None, True, False, 0, -1, 2**40, 0.5, "", "x", "podlane", "podlane-prepare", "10M", "\0", "é", "a/b~c", [], [None], {}, {"": ""},
    {"name": "podlane"}, {"name": None}, [{"name": "podlane"}], [[]], {"add": ["ALL"]}, {"podlane.io/egress-bandwidth": "10M"},
)  # fmt: skip
_STRUCTURAL: Final = 0.8
"""Share of changes that are made to the document; the others are to its bytes, or to those of one text in it."""


def mutated(data: bytes, most: int, seed: int, mutate_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Another document, of ``most`` bytes at most; the same for the same seed, unless ``mutate_bytes`` is at work."""
    chance = random.Random(seed)
    try:
        document = json.loads(data)
        if chance.random() > _STRUCTURAL:
            return mutate_bytes(data, most)
        for _ in range(chance.randint(1, 3)):
            document = _changed(document, chance, mutate_bytes)
        made = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return mutate_bytes(data, most)
    return made if len(made) <= most else data[:most]


def _changed(document: Any, chance: random.Random, mutate_bytes: Callable[[bytes, int], bytes]) -> Any:
    """A document with one thing replaced, renamed, doubled, taken out, or put where another was."""
    spots = _spots(document)
    if not spots:
        return document
    inside, key = chance.choice(spots)
    match chance.randrange(6):
        case 0:
            del inside[key]
        case 1:
            inside[key] = _copied(chance.choice(_OTHERS))
        case 2:
            other, its_key = chance.choice(spots)
            inside[key] = _copied(other[its_key])
        case 3 if isinstance(inside, list):
            inside.insert(key, _copied(chance.choice((inside[key], *_OTHERS))))
        case 4 if isinstance(inside, dict):
            inside[str(chance.choice(spots)[1])] = _copied(inside[key])
        case _ if isinstance(inside[key], str):
            text = inside[key].encode("utf-8", "surrogatepass")
            inside[key] = mutate_bytes(text, len(text) + 16).decode("utf-8", "replace")
    return document


def _spots(document: Any) -> list[tuple[Any, Any]]:
    """All places in a document: a list or an object, and an index or a key in it."""
    found: list[tuple[Any, Any]] = []
    containers = [document]
    for container in containers:  # which grows meanwhile
        if isinstance(container, dict):
            found += [(container, key) for key in container]
            containers += [item for item in container.values() if isinstance(item, dict | list)]
        elif isinstance(container, list):
            found += [(container, index) for index in range(len(container))]
            containers += [item for item in container if isinstance(item, dict | list)]
    return found


def _copied(value: Any) -> Any:
    """Another one like it; for plain data this is several times as fast as copy.deepcopy."""
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value
