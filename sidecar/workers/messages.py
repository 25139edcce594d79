"""The messages between the main process and a worker, and their framing. Pure: bytes in, messages out.

A frame is the length of the message (4 bytes, big-endian) and the pickled message, over a socket pair. Pickle suffices:
both ends are forked from the same program, so there are no versions, and no other process holds an end, so the peer is
trusted. In order:

=========  ===============================  ==========================================================
to worker  ``Begin``, ``Follow``            once; the ``Follow`` is answered when the worker accepts
to worker  ``Follow``, ``Ask``              any number; each is answered by a ``WorkerReport`` with its serial
to worker  ``Drain``                        at most once; it is answered by the ``FinalReport``
to worker  end of file                      reset remaining connections, send the ``FinalReport``, end
to main    ``WorkerReport``                 the answer to a ``Follow`` or an ``Ask``
to main    ``FinalReport``                  the last message
to main    end of file                      the worker has ended
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
    """The worker's number (from 1, for the log), and its settings; ``max_connections`` is its own share."""

    number: int
    settings: ServerSettings
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True)
class Follow:
    """The policy in force from now on, for existing connections too. Counters of other classes are dropped."""

    serial: int
    table: RoutingTable
    ids: ClassIds
    limits: ReceiveLimits | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Request a report, with this number of connections, in the ``order`` given."""

    serial: int
    connections: int = 0
    order: Order = Order.NEWEST


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept no more, let connections end for this time, reset the rest, and end."""

    grace: Duration


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """An answer: the number of live connections, the counters since the start, and connections if requested."""

    serial: int
    active: int
    counters: ConnectionCounters
    connections: tuple[LiveConnection, ...] | None = None


@dataclass(frozen=True, slots=True)
class FinalReport:
    """The last message: the number of connections reset at the end of a drain, and all counters."""

    cut: int
    counters: ConnectionCounters


ToWorker = Begin | Follow | Ask | Drain
ToMain = WorkerReport | FinalReport


def frame(message: ToWorker | ToMain) -> bytes:
    """A message as sent."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Unframer:
    """Reassembles messages from bytes, however they are split."""

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
