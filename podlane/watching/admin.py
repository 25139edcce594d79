"""Readings from the admin server of a running sidecar."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from pod_policy.settings import ADMIN_ADDRESS, ADMIN_PORT, variable
from podlane.watching.readings import ClassReading, Reading, SourceError, duration_words
from sidecar.live_connections import LiveConnection, Order, Shown
from tc_core.stats import ClassStats
from tc_core.units import Rate

_PATIENCE: Final = 2.0
"""Seconds for one answer; a sidecar gives it in milliseconds."""
_MOST: Final = 1 << 24
"""Bytes of an answer; 255 classes, or 5,000 connections, are 2 MiB at most."""
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to ask when the admin server listens on all addresses."""
_OLDER: Final = (
    "is of an older version than this command, and does not tell what is needed ({}). Update one of them, "
    "or look at its interface: podlane top --interface NAME."
)


@dataclass(frozen=True, slots=True)
class AdminSource:
    """A sidecar, by the address of its admin server."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] = os.environ) -> Self:
        """``HOST:PORT``, ``HOST``, ``PORT`` or ``[ADDRESS]:PORT``; raises ValueError with the remedy.

        What is left out is what PODLANE_ADMIN_ADDRESS and PODLANE_ADMIN_PORT say, as for the sidecar itself.
        """
        host, port = (
            environment.get(variable("admin_address")) or ADMIN_ADDRESS,
            environment.get(variable("admin_port")) or "",
        )
        written = text or ""
        if written.startswith("[") and "]" in written:
            address, _, after = written[1:].partition("]")
            host, port = address, after.removeprefix(":") or port
        elif written.count(":") > 1:
            host = written  # an IPv6 address alone
        elif written.isdecimal():
            port = written
        elif written:
            name, _, after = written.partition(":")
            host, port = name or host, after or port
        if not (port or str(ADMIN_PORT)).isdecimal() or not 1 <= int(port or ADMIN_PORT) <= 65535:
            raise ValueError(
                f"{text or port!r} has no port from 1 to 65535. Write HOST:PORT, as in 127.0.0.1:{ADMIN_PORT}."
            )
        return cls(_ANY.get(host, host), int(port or ADMIN_PORT))

    @property
    def name(self) -> str:
        """``127.0.0.1:15109``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def read(self) -> Reading:
        """Ask for ``/classes``. Raises :class:`SourceError`."""
        document = self._ask("/classes")
        try:
            return reading_of(document)
        except (KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"The sidecar at {self.name} {_OLDER.format(f'/classes lacks {error}')}") from None

    def connections(self, limit: int, order: Order) -> Shown:
        """Ask for ``/connections``. Raises :class:`SourceError`."""
        document = self._ask(f"/connections?limit={limit}&order={order.value}")
        try:
            return shown_of(document)
        except (KeyError, TypeError) as error:
            raise SourceError(f"The sidecar at {self.name} {_OLDER.format(f'/connections lacks {error}')}") from None

    def _ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(_MOST)
        except (OSError, http.client.HTTPException) as error:
            told = "no answer" if isinstance(error, socket.timeout) else getattr(error, "strerror", None) or str(error)
            raise SourceError(
                f"No sidecar is to be reached at {self.name}: {told}. Is one running here, with an admin port? "
                "--admin HOST:PORT asks another, and --interface NAME does without a sidecar."
            ) from None
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            if body.startswith(b"There is no "):  # a sidecar's own words
                missing = f"there is no {path.partition('?')[0]}"
                raise SourceError(f"The sidecar at {self.name} {_OLDER.format(missing)}")
            raise SourceError(f"What answers at {self.name} is no sidecar: it has no {path}. Name another by --admin.")
        if answer.status != http.HTTPStatus.OK:
            said = body[:200].decode(errors="replace").strip()
            raise SourceError(f"The sidecar at {self.name} cannot answer ({answer.status}): {said}")
        try:
            return json.loads(body)
        except ValueError:
            raise SourceError(
                f"What answers at {self.name} is no sidecar: {path} is no JSON. Name another by --admin."
            ) from None


def reading_of(document: Mapping[str, Any]) -> Reading:
    """A ``/classes`` document as a reading. Raises KeyError, TypeError when it is of another form."""
    workers = int(document["workers"])
    details = [str(document["datapath"]), f"up {duration_words(document['uptime_seconds'])}"]
    if workers > 1:
        details.insert(1, f"{workers} workers")
    return Reading(
        float(document["read_at_seconds"] or 0.0),
        str(document["interface"]),
        Rate(document["total_bits_per_second"]),
        tuple(_readings(document)),
        tuple(details),
    )


def _readings(document: Mapping[str, Any]) -> Iterator[ClassReading]:
    """The classes that send, and those that limit what arrives, if there are any."""
    for entry in document["classes"]:
        counted = entry["connections"]
        yield replace(_class(entry), active=counted["active"], opened=counted["total"])
    if (received := document.get("received")) is not None:
        for entry in received["classes"]:
            yield replace(_class(entry), key=f"{received['device']} {entry['handle']}", arrives=True)


def _class(entry: Mapping[str, Any]) -> ClassReading:
    return ClassReading(
        entry["handle"],
        entry["name"],
        ClassStats(
            bytes=entry["bytes"],
            packets=entry["packets"],
            drops=entry["drops"],
            overlimits=entry["overlimits"],
            backlog_bytes=entry["backlog_bytes"],
            backlog_packets=entry["backlog_packets"],
            lended=entry["lended"],
            borrowed=entry["borrowed"],
        ),
        Rate(entry["rate_bits_per_second"]),
        Rate(entry["ceil_bits_per_second"]),
        entry["priority"],
    )


def shown_of(document: Mapping[str, Any]) -> Shown:
    """A ``/connections`` document. Raises KeyError, TypeError when it is of another form."""
    connections = [
        LiveConnection(
            each["class"],
            (each["client"]["address"], each["client"]["port"]),
            (each["destination"]["address"], each["destination"]["port"]),
            each["direction"],
            each["name"],
            each["protocol"],
            each["state"],
            each["age_seconds"],
            each["bytes_up"],
            each["bytes_down"],
        )
        for each in document["connections"]
    ]
    return Shown(int(document["active"]), connections)
