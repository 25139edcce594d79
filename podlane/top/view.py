"""The user's choice of view, and its change by a key. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from datapath.connection_list import Order
from podlane.top.columns import ORDER, SORTS, WORKLOAD
from podlane.top.connections import TITLES

HELP: Final = (
    ("q", "quit (so does Ctrl-C)"),
    ("s or >", "sort by the next column"),
    ("<", "sort by the column before"),
    ("r", "reverse the order"),
    ("↑ ↓, j k", "scroll by a line; PgUp PgDn by ten; g to the top"),
    ("p or space", "pause, and go on"),
    ("c", "classes, or live connections"),
    ("l", "of connections: the newest, or the largest"),
    ("? or h", "this help, and back"),
)
_PAGE: Final = 10
_CONNECTION_SORTS: Final = ("", *TITLES)
_ALWAYS: Final = tuple(each for each in SORTS if each != WORKLOAD.key)
_MOVES: Final = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -_PAGE, "pagedown": _PAGE}


@dataclass(frozen=True, slots=True)
class View:
    """``sort`` is of the table of classes, ``connection_sort`` of that of connections. ``top`` is its first line.
    ``of_node``: it has a column of workloads."""

    sort: str = ORDER
    connection_sort: str = ""
    reverse: bool = False
    order: Order = Order.NEWEST
    shows_connections: bool = False
    is_paused: bool = False
    shows_help: bool = False
    top: int = 0
    is_over: bool = False
    of_node: bool = False


def after(view: View, key: str, lines: int) -> View:
    """The view after a key; ``lines``: the number of lines to scroll. Unknown keys change nothing."""
    match key:
        case "q":
            return replace(view, is_over=True)
        case "?" | "h":
            return replace(view, shows_help=not view.shows_help)
        case "escape":
            return replace(view, shows_help=False)
        case "s" | ">" | "." | "right":
            return _sorted(view, 1)
        case "<" | "," | "left":
            return _sorted(view, -1)
        case "r":
            return replace(view, reverse=not view.reverse)
        case "p" | " ":
            return replace(view, is_paused=not view.is_paused)
        case "c":
            return replace(view, shows_connections=not view.shows_connections, top=0)
        case "l":
            other = Order.LARGEST if view.order is Order.NEWEST else Order.NEWEST
            return replace(view, order=other, top=0)
        case "g" | "home":
            return replace(view, top=0)
        case _ if key in _MOVES:
            return replace(view, top=max(0, min(view.top + _MOVES[key], lines - 1)))
    return view


def _sorted(view: View, step: int) -> View:
    if view.shows_connections:
        place = _CONNECTION_SORTS.index(view.connection_sort)
        return replace(view, connection_sort=_CONNECTION_SORTS[(place + step) % len(_CONNECTION_SORTS)])
    sorts = [each for each in SORTS if view.of_node or each in (view.sort, *_ALWAYS)]
    return replace(view, sort=sorts[(sorts.index(view.sort) + step) % len(sorts)])
