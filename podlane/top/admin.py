"""Readings from the admin server of a running sidecar or node agent."""

from __future__ import annotations

import http
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Self, TypeVar
from urllib.parse import quote

from daemon.documents.classes import Class, Classes
from daemon.documents.codec import DocumentError, from_json
from daemon.documents.connections import Connections
from daemon.documents.node import NodeClasses
from datapath.connection_list import Order
from podlane.admin_client import NoAnswerError, ask, reachable
from podlane.text_output import address_words
from podlane.top.readings import AwayError, ClassReading, Reading, SourceError, duration_words
from tc_core.stats import ClassStats
from traffic_policy.settings import ADMIN_ADDRESS, ADMIN_PORT, AGENT_PORT, variable
from traffic_policy.units import Rate

_T = TypeVar("_T")
_COUNTERS: Final = (
    "bytes", "packets", "drops", "overlimits", "backlog_bytes", "backlog_packets", "lended", "borrowed"
)  # fmt: skip
_HOST_AND_PORT: Final = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::(.*))?")
_OLDER: Final = (
    "is of an older version than this command, and does not tell what is needed ({}). Update one of them, "
    "or look at its interface: podlane top --interface NAME."
)


@dataclass(frozen=True, slots=True)
class AdminSource:
    """A sidecar, by the address of its admin server; with a ``workload``, the node agent that looks after it, and with
    ``node`` all workloads of that agent. ``label``: what to call it instead of an address that says nothing."""

    host: str
    port: int
    workload: str | None = None
    node: bool = False
    label: str = ""

    @classmethod
    def parse(
        cls,
        text: str | None,
        environment: Mapping[str, str] = os.environ,
        *,
        workload: str | None = None,
        node: bool = False,
    ) -> Self:
        """``HOST:PORT``, ``HOST``, ``PORT`` or ``[ADDRESS]:PORT``; raises ValueError with the remedy.

        Missing parts are taken from PODLANE_ADMIN_ADDRESS and PODLANE_ADMIN_PORT, as for the sidecar itself; for an
        agent from PODLANE_AGENT_ADMIN_ADDRESS and PODLANE_AGENT_ADMIN_PORT.
        """
        prefix, usual = ("agent_", AGENT_PORT) if node or workload is not None else ("", ADMIN_PORT)
        written = text or ""
        if written.isdecimal():
            written = f":{written}"
        elif written.count(":") > 1 and not written.startswith("["):
            written = f"[{written}]"  # an IPv6 address without a port
        found = _HOST_AND_PORT.fullmatch(written)
        address, name, said = found.groups() if found else (None, None, written)
        host = address or name or environment.get(variable(f"{prefix}admin_address")) or ADMIN_ADDRESS
        port = said or environment.get(variable(f"{prefix}admin_port")) or str(usual)
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(
                f"{text or port!r} has no port from 1 to 65535. Write HOST:PORT, as in {ADMIN_ADDRESS}:{usual}."
            )
        return cls(reachable(host), int(port), workload, node)

    @property
    def name(self) -> str:
        """``127.0.0.1:15109``, of an agent with the workload."""
        if self.label:
            return self.label
        address = address_words(self.host, self.port)
        return address if self.workload is None else f"{address} {self.workload}"

    @property
    def _kind(self) -> str:
        return "agent" if self.node or self.workload is not None else "sidecar"

    def read(self) -> Reading:
        """Read ``/classes``, or ``/node``. Raises :class:`SourceError`."""
        if self.node:
            return reading_of_node(self._ask("/node", NodeClasses))
        return reading_of(self._ask("/classes", Classes))

    def connections(self, limit: int, order: Order) -> Connections:
        """Read ``/connections``. Raises :class:`SourceError`."""
        if self.node:
            raise SourceError("Connections are listed for one workload. Name it by --workload instead of --node.")
        return self._ask(f"/connections?limit={limit}&order={order.value}", Connections)

    def _ask(self, question: str, kind: type[_T]) -> _T:
        path = question.partition("?")[0]
        if self.workload is not None:
            question += f"{'&' if '?' in question else '?'}workload={quote(self.workload, safe='')}"
        try:
            answer = ask(self.host, self.port, question)
        except NoAnswerError as error:
            if self.label:
                raise AwayError(f"{self.name} does not answer any more: {error}.") from None
            raise SourceError(
                f"No {self._kind} is to be reached at {self.name}: {error}. Is one running here, with an admin port? "
                "--admin HOST:PORT asks another, and --interface NAME does without."
            ) from None
        if answer.status == http.HTTPStatus.NOT_FOUND:
            if answer.body.startswith(b"There is no "):  # a message of the sidecar itself
                raise SourceError(f"The {self._kind} at {self.name} {_OLDER.format(f'there is no {path}')}")
            raise SourceError(
                f"What answers at {self.name} is no {self._kind}: it has no {path}. Name another by --admin."
            )
        if answer.status != http.HTTPStatus.OK:
            raise SourceError(f"The {self._kind} at {self.name} cannot answer ({answer.status}): {answer.begins}")
        try:
            return from_json(kind, json.loads(answer.body))
        except ValueError:
            raise SourceError(
                f"What answers at {self.name} is no {self._kind}: {path} is no JSON. Name another by --admin."
            ) from None
        except DocumentError as error:
            raise SourceError(f"The {self._kind} at {self.name} {_OLDER.format(f'{path} {error}')}") from None


def reading_of(document: Classes) -> Reading:
    """The classes as a reading."""
    details = [document.datapath, f"up {duration_words(document.uptime_seconds)}"]
    if document.workers > 1:
        details.insert(1, f"{document.workers} workers")
    return Reading(
        document.read_at_seconds or 0.0,
        document.interface,
        Rate(document.total_bits_per_second),
        tuple(_readings(document)),
        tuple(details),
    )


def reading_of_node(document: NodeClasses) -> Reading:
    """The classes of all workloads as a reading."""
    classes, times, notes = list[ClassReading](), [0.0], list[str]()
    for each in document.workloads:
        if each.reason:
            notes.append(f"{each.name} {each.state}: {each.reason}")
        if each.classes is None:
            continue
        at = each.classes.read_at_seconds
        times.append(at or 0.0)
        classes += (
            replace(found, key=f"{each.name} {found.key}", workload=each.name, at=at)
            for found in _readings(each.classes)
        )
    count = len(document.workloads)
    in_force = sum(each.classes is not None for each in document.workloads)
    counted = f"{count} workload{'' if count == 1 else 's'}"
    details = [
        counted if in_force == count else f"{counted}, lanes of {in_force} in force",
        f"up {duration_words(document.uptime_seconds)}",
    ]
    return Reading(max(times), document.node or "node", None, tuple(classes), tuple(details), tuple(notes))


def _readings(document: Classes) -> Iterator[ClassReading]:
    """The sending classes, and those that limit received traffic, if any."""
    yield from map(_class, document.classes)
    if (received := document.received) is not None:
        for each in received.classes:
            yield replace(_class(each), key=f"{received.device} {each.handle}", arrives=True)


def _class(each: Class) -> ClassReading:
    counted = each.connections
    return ClassReading(
        each.handle,
        each.name,
        ClassStats(**{name: getattr(each, name) for name in _COUNTERS}),
        Rate(each.rate_bits_per_second),
        Rate(each.ceil_bits_per_second),
        each.priority,
        active=None if counted is None else counted.active,
        opened=None if counted is None else counted.total,
    )
