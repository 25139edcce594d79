"""What keeps thousands of small tests fast: each is a millisecond, so what is done around each one counts."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_ALLOCATIONS = 20_000
"""Containers that come to be before Python looks for cycles among the youngest. With its own 700, looking through what
all these tests and their modules consist of took a sixth of the time."""


def pytest_configure() -> None:
    gc.set_threshold(_ALLOCATIONS, 50, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By a signal, a time limit costs a tenth of what it does by a thread that is started and joined for each test."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(method="signal"))


def pytest_collection_finish() -> None:
    gc.freeze()  # what exists now stays for good
