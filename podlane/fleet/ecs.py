"""Entries of the audit log in the fields of the Elastic Common Schema, 8.17: what log systems know how to search.

https://www.elastic.co/guide/en/ecs/8.17/ecs-field-reference.html. What has no field there is under ``podlane``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

_VERSION: Final = "8.17.0"
_PEOPLE: Final = ("tenant", "token", "grant")
"""Subjects that are about who may do what; the others are settings."""


def ecs_document(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The document of an entry of ``GET /v1/tenants/TENANT/audit``."""
    time = datetime.fromtimestamp(entry["at"] / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    document = _changed(entry["event"]) if entry["event"] else _refused(entry["refusal"])
    return {"@timestamp": time, "ecs": {"version": _VERSION}, **document}


def _changed(event: Mapping[str, Any]) -> dict[str, Any]:
    people = event["subject"].partition("/")[0] in _PEOPLE
    return {
        "event": {
            "kind": "event",
            "category": ["iam" if people else "configuration"],
            "type": ["change"],
            "outcome": "success",
            "action": event["kind"],
            "id": f"{event['tenant']}/{event['position']}",
            "sequence": event["position"],
            "hash": event["digest"],
            "reason": event["reason"],
            "provider": "podlane",
        },
        **_who(event),
        "podlane": {"subject": event["subject"], "data": event["data"]},
    }


def _refused(refusal: Mapping[str, Any]) -> dict[str, Any]:
    method, _, path = refusal["operation"].partition(" ")
    return {
        "event": {
            "kind": "event",
            "category": ["authentication" if refusal["status"] == 401 else "web"],
            "type": ["denied"],
            "outcome": "failure",
            "action": refusal["problem"],
            "id": f"{refusal['tenant']}/refused/{refusal['number']}",
            "reason": refusal["detail"],
            "provider": "podlane",
        },
        **_who(refusal),
        "http": {"request": {"method": method}, "response": {"status_code": refusal["status"]}},
        "url": {"path": path},
        "podlane": {"known": refusal["known"], "count": refusal["count"], "reason": refusal["reason"]},
    }


def _who(entry: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"organization": {"id": entry["tenant"]}, "user": {"name": entry["author"]}}
    if address := entry["address"]:
        found["source"] = {"address": address}
        with suppress(ValueError):
            found["source"]["ip"] = str(ipaddress.ip_address(address))
    return found
