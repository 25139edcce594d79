"""What every refusal must have."""

from __future__ import annotations


def says_why(error: Exception, *messages: str) -> None:
    """Raise AssertionError when an error, or one of its parts, has no words for whoever reads it."""
    assert all(text.strip() for text in (str(error), *messages)), f"{error!r} does not say why"
