"""Chooses what only ``make test-nightly`` runs: tests marked ``nightly``, and most of large products of parameters.

Of a test marked ``covering`` so many variants are run each time that every value of every parameter occurs, and that every
pair of values occurs somewhere in its module. The other variants are nightly.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import combinations, groupby

import pytest

_Value = tuple[str, Hashable]


def mark_variants(items: Iterable[pytest.Item]) -> None:
    """Mark the variants that a covering set does without as ``nightly``."""
    variants = [item for item in items if item.get_closest_marker("covering") and _values(item)]
    for _, of_module in groupby(variants, key=lambda item: item.nodeid.partition("::")[0]):
        seen: set[frozenset[_Value]] = set()
        tests: dict[str, list[pytest.Item]] = {}
        for item in of_module:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
        for of_test in tests.values():
            values: dict[pytest.Item, set[_Value]] = {item: _values(item) for item in of_test}
            chosen = covering(values.values(), seen)
            for item in of_test:
                if values[item] not in chosen:
                    item.add_marker(pytest.mark.nightly)


def covering(variants: Iterable[set[_Value]], seen: set[frozenset[_Value]]) -> list[set[_Value]]:
    """The fewest variants, as far as a greedy choice finds them, that have every value, and every pair not yet ``seen``.

    Adds the pairs of those to ``seen``.
    """
    left = list(variants)
    missing: set[_Value] = set().union(*left)
    wanted = {pair for variant in left for pair in _pairs(variant)} - seen
    chosen: list[set[_Value]] = []
    while missing or wanted:
        best = max(left, key=lambda variant: (len(_pairs(variant) & wanted), len(variant & missing)))
        left.remove(best)
        chosen.append(best)
        missing -= best
        wanted -= _pairs(best)
        seen |= _pairs(best)
    return chosen


def _pairs(variant: set[_Value]) -> set[frozenset[_Value]]:
    return {frozenset(pair) for pair in combinations(variant, 2)}


def _values(item: pytest.Item) -> set[_Value]:
    """A test's parameters: by what they are, where that can be a key, else by their position."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return set()
    return {
        (name, value if isinstance(value, str | int) else position)
        for name, position in callspec.indices.items()
        for value in [callspec.params[name]]
    }
