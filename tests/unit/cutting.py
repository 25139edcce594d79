"""What the tests of streams that are cut at requests share: cutting, and where requests were seen to begin."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from datapath.protocols.requests import Beyond, Cutter, Piece, Request


def begins(pieces: list[Piece]) -> list[tuple[int, str | Beyond | None]]:
    """The place of each beginning in the stream, and what begins there."""
    found: list[tuple[int, str | Beyond | None]] = []
    at = 0
    for piece in pieces:
        if piece.begins is not None:
            found.append((at, piece.begins.host if isinstance(piece.begins, Request) else piece.begins))
        at += len(piece.data)
    return found


def pieces_of(make: Callable[[], Cutter], stream: bytes, places: tuple[int, ...]) -> list[Piece]:
    """The pieces of a stream that comes cut at these places; nothing may be lost or altered."""
    cutter = make()
    edges = [0, *sorted(places), len(stream)]
    pieces = [piece for a, b in itertools.pairwise(edges) for piece in cutter.feed(stream[a:b])]
    assert b"".join(piece.data for piece in pieces) + cutter.finish() == stream
    assert all(piece.data for piece in pieces)
    return pieces
