"""Chooses what only ``make test-nightly`` runs: tests marked ``nightly``, and most of the combinations of parameters.

Of a test marked ``covering`` so many variants are run each time that every value of every parameter occurs; of three or more
parameters, also every pair of their values. Of the variants that would do, those come first whose pairs no test of the module
has had. The other variants are nightly.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import combinations, groupby

import pytest

Value = tuple[str, Hashable]
"""The name of a parameter, and one of its values."""
Pair = frozenset[Value]


def mark_variants(items: Iterable[pytest.Item]) -> None:
    """Mark the variants that a covering set does without as ``nightly``."""
    variants = [(item, _values(item)) for item in items if item.get_closest_marker("covering")]
    for _, of_module in groupby(variants, key=lambda variant: variant[0].nodeid.partition("::")[0]):
        seen: set[Pair] = set()
        tests: dict[str, list[tuple[pytest.Item, set[Value]]]] = {}
        for item, values in of_module:
            if values:
                tests.setdefault(item.nodeid.partition("[")[0], []).append((item, values))
        for of_test in tests.values():
            chosen = covering([values for _, values in of_test], seen)
            for item, values in of_test:
                if values not in chosen:
                    item.add_marker(pytest.mark.nightly)


def covering(variants: Iterable[set[Value]], seen: set[Pair]) -> list[set[Value]]:
    """The fewest variants of a test that cover it, as far as a greedy choice finds them.

    Those with pairs not yet ``seen`` are preferred, and what is chosen is added to it.
    """
    left = list(variants)
    values: set[Value] = set().union(*left)
    pairs: set[Pair] = set()
    if len({name for name, _ in values}) > 2:
        pairs = set().union(*map(_pairs, left))
    chosen: list[set[Value]] = []
    while values or pairs:
        best = max(left, key=lambda v: (len(_pairs(v) & pairs), len(v & values), len(_pairs(v) - seen)))
        left.remove(best)
        chosen.append(best)
        values -= best
        pairs -= _pairs(best)
        seen |= _pairs(best)
    return chosen


def _pairs(variant: set[Value]) -> set[Pair]:
    return {frozenset(pair) for pair in combinations(variant, 2)}


def _values(item: pytest.Item) -> set[Value]:
    """A test's parameters: by what they are, where that can be a key, else by their position."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return set()
    return {
        (name, value if isinstance(value, str | int) else position)
        for name, position in callspec.indices.items()
        for value in [callspec.params[name]]
    }
