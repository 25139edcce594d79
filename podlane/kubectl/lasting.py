"""A source of readings that lasts longer than the Pod it is read from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from daemon.documents.connections import Connections
from datapath.connection_list import Order
from podlane.kubectl.errors import ClusterError, ForbiddenError, NotThereError
from podlane.top.readings import AwayError, Reading, Source, SourceError

AGAIN: Final = "Connected again: "
"""How the note begins that says so."""
_NOTED_S: Final = 10.0
"""Seconds for which readings say that the source was opened again."""


class LastingSource:
    """Opens a source again when it does not answer any more: its agent may have been replaced, and the port that was
    forwarded leads to the one that is gone.

    ``opener`` finds whoever is to be asked now, and forwards a port. It raises :class:`ClusterError`: once there has
    been somebody to ask, that is a matter of time (an agent begins, the API server is away), unless it is that the Pod
    is gone, or a missing right.
    """

    def __init__(
        self, opener: Callable[[], AbstractContextManager[Source]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._opener = opener
        self._clock = clock
        self._stack = ExitStack()
        self._source: Source | None = None
        self._name = ""
        self._is_back = False
        self._noted_until = 0.0

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """That of the source that is asked now, or was last."""
        return self._name

    def read(self) -> Reading:
        """Read it. Raises :class:`AwayError` while nobody answers (the next call tries again); other errors stay."""
        source = self._source or self._open_again()
        try:
            reading = source.read()
        except AwayError:
            self._close()
            raise
        except SourceError as error:
            # A new agent answers before it has found all that the old one held.
            if self._is_back:
                raise AwayError(f"{error} It has just begun.") from None
            raise
        if self._is_back:
            self._is_back = False
            self._noted_until = self._clock() + _NOTED_S
        if self._clock() < self._noted_until:
            reading = replace(reading, notes=(f"{AGAIN}{self._name}.", *reading.notes))
        return reading

    def connections(self, limit: int, order: Order) -> Connections:
        """Read the live connections. Raises as :meth:`read`."""
        source = self._source or self._open_again()
        try:
            return source.connections(limit, order)
        except AwayError:
            self._close()
            raise

    def _open(self) -> Source:
        source = self._stack.enter_context(self._opener())
        self._source, self._name = source, source.name
        return source

    def _open_again(self) -> Source:
        try:
            source = self._open()
        except (NotThereError, ForbiddenError):
            raise
        except ClusterError as error:
            raise AwayError(str(error)) from None
        self._is_back = True
        return source

    def _close(self) -> None:
        self._source = None
        self._stack.close()
