"""What is remembered up to a bound."""

from __future__ import annotations

import pytest

from datapath.bounded_map import BoundedMap


@pytest.mark.parametrize(("most", "least"), [(1, 1), (3, 3), (64, 63), (640, 630)])
def test_the_oldest_are_forgotten(most: int, least: int) -> None:
    entries: BoundedMap[int, str] = BoundedMap(most)
    sizes = []
    for number in range(5 * most):
        entries[number] = str(number)
        sizes.append(len(entries))
    assert (max(sizes), min(sizes[most:])) == (most, least)
    kept = [number for number in range(5 * most) if entries.get(number) == str(number)]
    assert kept == list(range(5 * most))[-len(entries) :]


def test_what_is_renewed_or_set_again_stays() -> None:
    entries: BoundedMap[str, int] = BoundedMap(3)
    for number, key in enumerate("abc"):
        entries[key] = number
    entries.renew("a")
    entries["b"] = 7
    entries["d"] = 3
    assert [entries.get(key) for key in "abcd"] == [0, 7, None, 3]


def test_setting_again_forgets_nothing() -> None:
    entries: BoundedMap[str, int] = BoundedMap(2)
    for key in "abab":
        entries[key] = 1
    assert [entries.get(key) for key in "ab"] == [1, 1]


def test_what_is_taken_out_is_gone() -> None:
    entries: BoundedMap[str, int] = BoundedMap(2)
    entries["a"] = 1
    assert [entries.pop("a"), entries.pop("a"), entries.get("a"), len(entries)] == [1, None, None, 0]
