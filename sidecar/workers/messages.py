"""What the main process and a worker say to each other, and how it is framed. Pure: bytes in, messages out.

A frame is the length of what follows (4 bytes, big-endian) and a pickled message, over a socket pair. Pickle, since
both ends are one program: the worker is forked from the very code that made the message, so there are no versions to
agree on, and nobody else holds an end, so there is nobody to mistrust. In order:

=========  ===============================  ==========================================================
to worker  ``Begin``, ``Follow``            once; the ``Follow`` is answered when the worker accepts
to worker  ``Follow``, ``Ask``              any number; each is answered by a ``WorkerReport`` with its serial
to worker  ``Drain``                        once at most; it is answered by the ``FinalReport``
to worker  end of file                      cut what is left, answer by the ``FinalReport``, end
to main    ``WorkerReport``                       the answer to a ``Follow`` or an ``Ask``
to main    ``FinalReport``                     the last message
to main    end of file                      the worker is gone
=========  ===============================  ==========================================================
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from datapath.connection_list import LiveConnection, Order
from datapath.download_limits import ReceiveLimits
from datapath.routing.table import RoutingTable
from sidecar.observability.counters import ConnectionCounters
from sidecar.proxy.server import ServerSettings
from traffic_policy.marks import ClassIds
from traffic_policy.settings import LogFormat, LogLevel
from traffic_policy.units import Duration

_LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Begin:
    """Which worker it is (from 1 on, for the log), and how it behaves; ``max_connections`` is its own share."""

    number: int
    settings: ServerSettings
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True)
class Follow:
    """The policy in force from now on, for connections that are there, too. Tallies of other classes are forgotten."""

    serial: int
    table: RoutingTable
    ids: ClassIds
    limits: ReceiveLimits | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Say where you stand, and tell of so many connections, by ``order``."""

    serial: int
    connections: int = 0
    order: Order = Order.NEWEST


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept no more, let connections end for this long, cut the rest, and end."""

    grace: Duration


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """An answer: how many connections are alive, what was counted since the start, and connections if asked for."""

    serial: int
    active: int
    counters: ConnectionCounters
    connections: tuple[LiveConnection, ...] | None = None


@dataclass(frozen=True, slots=True)
class FinalReport:
    """The last word: how many connections were cut at the end of a drain, and all that was counted."""

    cut: int
    counters: ConnectionCounters


ToWorker = Begin | Follow | Ask | Drain
ToMain = WorkerReport | FinalReport


def frame(message: ToWorker | ToMain) -> bytes:
    """A message as it travels."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Unframer:
    """Puts messages together again, however the bytes arrive."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that ``data`` completes."""
        self._data += data
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            message = pickle.loads(bytes(self._data[_LENGTH.size : end]))
            del self._data[:end]
            yield message
