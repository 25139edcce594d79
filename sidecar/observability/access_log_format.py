"""The lines of the access log, with the field names of ECS. Pure.

ECS is the Elastic Common Schema (https://www.elastic.co/docs/reference/ecs); fields that it lacks are below
``podlane``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from datapath.protocols.detect import Detection, Protocol
from datapath.routing.flow import Destination
from datapath.sockets import SocketAddress
from sidecar.transport.observer import ConnectionOutcome, ConnectionSummary
from traffic_policy.policy import Bound

ECS_VERSION: Final = "8.17.0"
_DIRECTIONS: Final = {Bound.OUTBOUND: "egress", Bound.INBOUND: "ingress"}
_PROTOCOLS: Final = {Protocol.TLS: "tls", Protocol.HTTP1: "http", Protocol.HTTP2: "http", Protocol.QUIC: "quic"}
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_HOLES: Final = ("time", "start", "duration", "port", "up", "down", "both", "throttled")
"""The fields that differ from line to line. The rest repeats, and is encoded once."""
_TEMPLATES: Final = 4096


def connection_line(summary: ConnectionSummary, now: float) -> bytes:
    """The line of a connection that ended ``now`` (seconds since 1970)."""
    template = _template(summary.client[0], summary.destination, summary.class_name, summary.detection, summary.outcome)
    up, down = summary.bytes_up, summary.bytes_down
    return template.format(
        time=_time(now),
        start=_time(now - summary.seconds),
        duration=round(summary.seconds * 1e9),
        port=summary.client[1],
        up=up,
        down=down,
        both=up + down,
        throttled=round(summary.waited * 1e9),
    ).encode()


def decision_line(
    client: SocketAddress, destination: Destination, class_name: str, detection: Detection, now: float
) -> bytes:
    """The line of a connection that step-aside released ``now``: its end will not be seen."""
    template = _template(client[0], destination, class_name, detection, None)
    return template.format(time=_time(now), port=client[1]).encode()


@lru_cache(_TEMPLATES)
def _template(
    client: str, destination: Destination, class_name: str, detection: Detection, outcome: ConnectionOutcome | None
) -> str:
    """A line for str.format(), with :data:`_HOLES` for the values that differ. ``outcome`` None: it has not ended."""
    text = _encode(_document(client, destination, class_name, detection, outcome))
    text = text.replace("{", "{{").replace("}", "}}")
    for hole in _HOLES:
        text = text.replace(f'"\\u0000{hole}"', f"{{{hole}}}")
    return text + "\n"


def _hole(name: str) -> str:
    """A unique value: the encoder writes the zero byte as an escape."""
    return f"\0{name}"


def _document(
    client: str, destination: Destination, class_name: str, detection: Detection, outcome: ConnectionOutcome | None
) -> dict[str, Any]:
    here = {"address": client, "ip": client, "port": _hole("port")}
    address = str(destination.address)
    there: dict[str, Any] = {"address": address, "ip": address, "port": destination.port}
    document: dict[str, Any] = {
        "@timestamp": _hole("time"),
        "ecs": {"version": ECS_VERSION},
        "event": _event(outcome),
        "client": here,
        "source": dict(here),
        "destination": there,
        "network": {
            "transport": destination.protocol.value,
            "type": f"ipv{destination.address.version}",
            "direction": _DIRECTIONS[destination.bound],
        },
        "podlane": {"class": class_name, "protocol": detection.protocol.value},
    }
    if (protocol := _PROTOCOLS.get(detection.protocol)) is not None:
        document["network"]["protocol"] = protocol
    if detection.sni is not None:
        there["domain"] = detection.sni
        document["tls"] = {"client": {"server_name": detection.sni}}
    if detection.host is not None:
        there["domain"] = detection.host
        document["url"] = {"domain": detection.host}
    if outcome is not None:
        document["source"]["bytes"] = _hole("up")
        there["bytes"] = _hole("down")
        document["network"]["bytes"] = _hole("both")
        document["podlane"]["throttled"] = _hole("throttled")
    return document


def _event(outcome: ConnectionOutcome | None) -> dict[str, Any]:
    event: dict[str, Any] = {"kind": "event", "category": ["network"], "dataset": "podlane.access"}
    if outcome is None:
        return event | {"type": ["connection", "start"], "start": _hole("time"), "outcome": "unknown"}
    event |= {
        "type": ["connection", "end"],
        "start": _hole("start"),
        "end": _hole("time"),
        "duration": _hole("duration"),
        "outcome": "success" if outcome is ConnectionOutcome.COMPLETE else "failure",
    }
    return event if outcome is ConnectionOutcome.COMPLETE else event | {"reason": outcome.value}


def _time(seconds: float) -> str:
    """RFC 3339 in UTC, with microseconds; in quotes."""
    whole, microseconds = divmod(round(seconds * 1e6), 10**6)
    return f'"{_second(whole)}.{microseconds:06d}Z"'


@lru_cache(16)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
