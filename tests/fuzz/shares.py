"""Which inputs are checked in full while fuzzing goes on. Pure.

Some checks take many times as long as what they check: another program's reading, the same bytes once more in pieces.
Made of every input, they leave time for few inputs. So a harness has two ways to be called. In full, as everything
calls it that looks at single inputs (``--replay``, the corpus in the tests); or in brief, which is a part of that: the
code is run, with what can be said of its answer by itself.
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

_SPREAD: Final = 0x9E3779B1
"""2^32 divided by the golden ratio: after multiplication the upper bits depend on all bits, and not as the lower ones
do, by which the harnesses choose the manner of what they do."""


class Harness(Protocol):
    """Takes an input, and raises when something is not as promised."""

    def __call__(self, data: bytes, *, full: bool = True) -> None:
        """``full``: with every check there is."""


def is_chosen(data: bytes, one_in: int) -> bool:
    """Whether an input is among the share of one in so many. Its bytes decide, so that a find is repeatable."""
    return (zlib.crc32(data) * _SPREAD & 0xFFFFFFFF) * one_in >> 32 == 0
