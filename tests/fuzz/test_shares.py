"""Fuzzing leaves checks and tales out only where it says so."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.fuzz.paths import Tried, Ways
from tests.fuzz.shares import is_chosen

INPUTS = [b"input %d" % number for number in range(16_000)]


@pytest.mark.parametrize("one_in", [1, 2, 8, 16])
def test_so_many_inputs_are_chosen(one_in: int) -> None:
    chosen = sum(is_chosen(data, one_in) for data in INPUTS)
    assert chosen == pytest.approx(len(INPUTS) / one_in, rel=0.15)


@pytest.mark.parametrize(
    ("blocks", "size", "new"),
    [
        pytest.param([1, 2, 3], 9, False, id="same way"),
        pytest.param([1, 2, 3], 8, True, id="same way, shorter"),
        pytest.param([2, 1, 3], 9, False, id="other order"),
        pytest.param([1, 3], 9, False, id="less"),
        pytest.param([1, 2, 3, 4], 9, True, id="new block"),
        pytest.param([1, 2, 2, 3], 9, True, id="more often"),
    ],
)
def test_what_is_new_is_told(blocks: list[int], size: int, new: bool) -> None:
    ways = Ways()
    ways.blocks[:] = [1, 2, 3]
    assert ways.are_new(9)
    ways.blocks[:] = blocks
    assert ways.are_new(size) is new
    assert not ways.are_new(size)


def _tried(kept: tuple[bytes, ...], *, share: int = 1 << 30) -> tuple[Callable[[bytes], None], list[bool], list[int]]:
    """A harness that runs a block for each byte; whether each call was in full, and what was told."""
    told: list[int] = []
    calls: list[bool] = []
    atheris = SimpleNamespace(_trace_branch=told.append)

    def harness(data: bytes, *, full: bool = True) -> None:
        calls.append(full)
        for block in data:
            atheris._trace_branch(block)

    return Tried(harness, share, kept, atheris), calls, told


def test_what_is_new_is_told_and_checked_in_full() -> None:
    tried, calls, told = _tried(())
    for data in (b"ab", b"ab", b"ba", b"abc"):
        tried(data)
    assert calls == [False, True, False, False, False, True]
    assert bytes(told) == b"ababc"


def test_what_is_kept_or_chosen_is_checked_in_full() -> None:
    tried, calls, _ = _tried((b"ab",))
    tried(b"ab")
    tried(b"ab")
    assert calls == [True, True]
    tried, calls, _ = _tried((), share=1)
    tried(b"ab")
    assert calls == [True]
