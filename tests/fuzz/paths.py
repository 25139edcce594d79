"""What libFuzzer is told of an execution: all of it, where anything in it is new; otherwise nothing.

atheris makes the code call ``atheris._trace_branch`` at the beginning of each basic block, which took a third of the
time and more, though nearly all executions go where others have been. So the blocks are noted in a list, which takes a
fraction, and told only when libFuzzer could learn from them: some block ran that never did, or a number of times that
it never did (libFuzzer knows eight ranges of numbers, so what is new to it is new here); or the input is shorter than
all that went the same way, since libFuzzer keeps the shortest.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

from tests.fuzz.shares import Harness, is_chosen

_WAYS: Final = 1 << 20
"""Ways through the code that are remembered, each in a place of its own if by chance no other has the same."""
_COUNTS: Final = 500_000
"""Numbers of times that blocks ran, likewise; then all are forgotten, and told anew."""


class Ways:
    """Knows what has been executed. ``blocks`` is filled with the numbers of those that are."""

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self._ways = array("q", bytes(8 * _WAYS))
        self._sizes = array("q", bytes(8 * _WAYS))
        self._counts: set[tuple[int, int]] = set()

    def are_new(self, size: int) -> bool:
        """Whether the blocks of an input of so many bytes tell anything."""
        way = hash(tuple(self.blocks))
        place = way % _WAYS
        if self._ways[place] == way:
            shorter = size < self._sizes[place]
            if shorter:
                self._sizes[place] = size
            return shorter
        self._ways[place], self._sizes[place] = way, size
        counts = Counter(self.blocks).items()
        if counts <= self._counts:
            return False
        if len(self._counts) > _COUNTS:
            self._counts.clear()
        self._counts |= counts
        return True


class Tried:
    """A harness as libFuzzer calls it: in full for the inputs that are kept, one in ``share`` of the others, and all
    that tell anything new."""

    def __init__(self, harness: Harness, share: int, kept: Collection[bytes], atheris: Any) -> None:
        self._harness = harness
        self._share = share
        self._kept = frozenset(kept)
        self._atheris = atheris
        self._tell: Any = None
        self._ways = Ways()

    def __call__(self, data: bytes) -> None:
        if self._tell is None:  # only now, because atheris itself puts another function there when it begins
            self._tell = self._atheris._trace_branch
            self._atheris._trace_branch = self._ways.blocks.append
        blocks = self._ways.blocks
        blocks.clear()
        full = data in self._kept or is_chosen(data, self._share)
        self._harness(data, full=full)
        if not self._ways.are_new(len(data)):
            return
        for block in blocks:
            self._tell(block)
        if not full:
            self._harness(data)
