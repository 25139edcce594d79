"""Changes to JSON that leave it JSON: libFuzzer's own changes of bytes hardly ever do. Pure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any, Final

from tests.documents import places

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
    except (ValueError, RecursionError):
        return mutate_bytes(data, most)
    if chance.random() > _STRUCTURAL:
        return mutate_bytes(data, most)
    for _ in range(chance.randint(1, 3)):
        document = _changed(document, chance, mutate_bytes)
    made = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return made if len(made) <= most else data[:most]


def _changed(document: Any, chance: random.Random, mutate_bytes: Callable[[bytes, int], bytes]) -> Any:
    """A document with one thing replaced, renamed, doubled, taken out, or moved to where another was."""
    ways = list(places(document))
    way = chance.choice(ways)
    if not way:
        return document
    *above, last = way
    spot = document
    for key in above:
        spot = spot[key]
    match chance.randrange(6):
        case 0:
            del spot[last]
        case 1:
            spot[last] = copy.deepcopy(chance.choice(_OTHERS))
        case 2:
            spot[last] = copy.deepcopy(_at(document, chance.choice(ways)))
        case 3 if isinstance(spot, list):
            spot.insert(last, copy.deepcopy(chance.choice((spot[last], *_OTHERS))))
        case 4 if isinstance(spot, dict):
            spot[chance.choice([str(way[-1]) for way in ways if way] + ["x"])] = copy.deepcopy(spot[last])
        case _ if isinstance(spot[last], str):
            text = spot[last].encode("utf-8", "surrogatepass")
            spot[last] = mutate_bytes(text, len(text) + 16).decode("utf-8", "replace")
    return document


def _at(document: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        document = document[key]
    return document
