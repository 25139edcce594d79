"""Traces of changes: what is told of a request on its way to the agents that have what it asked for.

By default nothing is: :class:`NoTraces`. :mod:`control_plane.otlp_traces` tells an OpenTelemetry collector.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Ended = Callable[[int], None]
"""Called with how many agents have said nothing yet."""


class ChangeTraces(Protocol):
    """Any thread may tell. What is told by another process of the control plane belongs to no request."""

    def request(self, method: str, path: str, parent: str) -> AbstractContextManager[object]:
        """A request that may change something. ``parent`` is its ``traceparent`` (W3C Trace Context)."""

    def command(self, tenant: str, name: str) -> AbstractContextManager[object]:
        """A command is carried out, within a request or not."""

    def append(self, tenant: str) -> AbstractContextManager[object]:
        """Its events are put on disk."""

    def appended(self, tenant: str, first: int, last: int) -> None:
        """At these positions, within the command."""

    def project(self, tenant: str, first: int, last: int) -> AbstractContextManager[object]:
        """Events are taken into what agents are to have."""

    def deliver(self, tenant: str, position: int, agents: int) -> Ended | None:
        """So many agents are told of the revision at a position. What is returned is to be called when all have
        answered, or something newer is told; None: nobody wants to know."""

    def close(self) -> None:
        """Send what was told so far."""


class NoTraces:
    """Nobody wants to know."""

    def request(self, method: str, path: str, parent: str) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def command(self, tenant: str, name: str) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def append(self, tenant: str) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def appended(self, tenant: str, first: int, last: int) -> None:
        pass

    def project(self, tenant: str, first: int, last: int) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def deliver(self, tenant: str, position: int, agents: int) -> Ended | None:  # noqa: ARG002
        return None

    def close(self) -> None:
        pass
