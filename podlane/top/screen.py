"""The live display on a terminal, and its keys.

A single thread waits for a key until the next reading is due. A key takes effect at once. A failed reading is shown in
the display, and retried: a restarted sidecar is picked up again.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.live import Live

from daemon.documents.connections import Connections
from datapath.connection_list import Order
from podlane.top.keys import single_keys, wait_for_keys
from podlane.top.rates import Frame, RateTracker, pause_after_look
from podlane.top.readings import Source, SourceError
from podlane.top.render import classes_picture, connections_picture, help_picture
from podlane.top.view import View, after
from traffic_policy.errors import PodlaneError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_SUSPEND: Final = "\x1a"
"""Ctrl-Z, which single_keys() passes as a key."""
_NO_CONNECTIONS: Final = Connections(0, Order.NEWEST, ())


class Screen:
    """Shows one source until the user quits."""

    def __init__(self, console: Console, source: Source, view: View, interval: float, limit: int) -> None:
        self._console = console
        self._source = source
        self._view = view
        self._interval = interval
        self._limit = limit
        self._watch = RateTracker(interval)
        self._frame: Frame | None = None
        self._shown = _NO_CONNECTIONS
        self._problem = ""
        self._problem_with_connections = ""
        self._keyboard = sys.stdin.fileno()
        self._is_suspended = False

    def run(self, count: int | None) -> None:
        """Run until a key ends it, the terminal is closed, or ``count`` intervals are over.

        Raises :class:`SourceError`, or an error of :mod:`tc_core`, if the first reading fails.
        """
        self._watch.add(self._source.read())
        self._frame = self._watch.frame()
        self._look_at_connections()
        left = math.inf if count is None else count
        while not self._view.is_over:
            with single_keys(self._keyboard), Live(console=self._console, screen=True, auto_refresh=False) as live:
                left = self._show(live, left)
            if self._is_suspended:
                # With the terminal restored; the shell's `fg` continues after this line.
                self._is_suspended = False
                os.kill(os.getpid(), signal.SIGSTOP)

    def _show(self, live: Live, left: float) -> float:
        """Run until the view ends or is suspended; return the number of intervals left."""
        next_look = time.monotonic()
        next_frame = next_look + self._interval
        size = None
        while not (self._view.is_over or self._is_suspended):
            now = time.monotonic()
            if now >= min(next_look, next_frame):
                self._look()
                next_look = now + pause_after_look(time.monotonic() - now, self._interval)
            if now >= next_frame:
                next_frame = now + self._interval
                self._next_frame()
                size = None
                left -= 1
            if self._console.size != size:
                size = self._console.size
                live.update(self._picture(), refresh=True)
            if left <= 0:
                self._view = replace(self._view, is_over=True)
                break
            keys = wait_for_keys(self._keyboard, min(next_look, next_frame) - time.monotonic())
            if keys is None:
                self._view = replace(self._view, is_over=True)
            elif keys:
                self._press(keys)
                live.update(self._picture(), refresh=True)
        return left

    def _look(self) -> None:
        try:
            self._watch.add(self._source.read())
        except PodlaneError as error:
            self._problem = str(error)
        else:
            self._problem = ""

    def _next_frame(self) -> None:
        frame = self._watch.frame()
        if self._view.is_paused:
            return
        self._frame = frame
        self._look_at_connections()

    def _look_at_connections(self) -> None:
        if not self._view.shows_connections:
            return
        try:
            self._shown = self._source.connections(self._limit, self._view.order)
        except SourceError as error:
            self._problem_with_connections, self._shown = str(error), _NO_CONNECTIONS
        else:
            self._problem_with_connections = ""

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            self._is_suspended = self._is_suspended or key == _SUSPEND
            before, self._view = self._view, after(self._view, key, self._lines())
            if (before.shows_connections, before.order) != (self._view.shows_connections, self._view.order):
                self._look_at_connections()

    def _lines(self) -> int:
        if self._view.shows_connections:
            return len(self._shown.connections)
        return len(self._frame.rows) if self._frame else 0

    def _picture(self) -> RenderableType:
        width, height = self._console.size
        if self._view.shows_help or self._frame is None:
            return help_picture()
        view = replace(self._view, top=min(self._view.top, max(0, self._lines() - 1)))
        if view.shows_connections:
            problem = self._problem or self._problem_with_connections
            return connections_picture(self._source.name, self._frame, self._shown, view, width, height, problem)
        return classes_picture(self._source.name, self._frame, view, width, height, self._problem)
