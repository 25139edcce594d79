"""Backups: all logs as lines of JSON, which any database of ours takes.

The first line says where each log ends, then come the events, tenant by tenant, then the requests that were carried
out, so that one that is repeated after a restore happens once still, and what went through lanes in each day. The last
line says how many there are of each. What is made from events is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from control_plane.store.chain import canonical, follow
from control_plane.store.errors import BackupError
from control_plane.store.event_store import EventStore, insert_event
from control_plane.store.lane_volumes import DayVolume, insert_volumes
from control_plane.store.records import START, Head, StoredEvent

_FORMAT: Final = 1
_REQUEST: Final = ("tenant", "key", "fingerprint", "first", "last")


def backup_lines(store: EventStore, at: int) -> Iterator[str]:
    """A backup of what there is now (``at``, in milliseconds of Unix time), also while others write.

    Raises :class:`~control_plane.store.errors.ChainError` where the log was altered.
    """
    heads = dict(sorted(store.heads().items()))
    yield canonical(
        {"podlane_backup": _FORMAT, "at": at, "heads": {name: asdict(head) for name, head in heads.items()}}
    )
    events = requests = 0
    for tenant, end in heads.items():
        head = START
        for event in store.read_all(tenant):
            if event.position > end.position:
                break
            head = follow(tenant, head, event)
            events += 1
            yield canonical({"event": asdict(event)})
        if head != end:
            raise BackupError(f"The log of {tenant} ends too early. Run `podlane audit verify`.")
    for tenant, end in heads.items():
        with store.database.reading(tenant) as execute:
            # Those whose events are in this backup, or had none.
            rows = execute(
                f"SELECT {', '.join(_REQUEST)} FROM requests WHERE tenant = ? AND last <= ? ORDER BY first, key",
                (tenant, end.position),
            )
        for row in rows:
            requests += 1
            yield canonical({"request": dict(zip(_REQUEST, row, strict=True))})
    volumes = 0
    for tenant in heads:
        for volume in store.volumes.read_all(tenant):
            volumes += 1
            yield canonical({"volume": volume})
    yield canonical({"end": {"events": events, "requests": requests, "volumes": volumes}})


def restore(store: EventStore, lines: Iterable[str]) -> dict[str, Head]:
    """Fill an empty store from a backup: with all that is in it, or with nothing. Where each log ends then.

    Raises :class:`BackupError`, :class:`~control_plane.store.errors.ChainError`.
    """
    documents = _documents(lines)
    expected = _heads(next(documents, {}))
    found: dict[str, Head] = {}
    events = requests = volumes = 0
    with store.database.writing() as execute:
        if execute("SELECT tenant FROM heads LIMIT 1"):
            raise BackupError("The database is not empty. Restore into a new one, which no control plane has used.")
        for document in documents:
            match document:
                case {"event": dict(fields)}:
                    event = _event(fields)
                    if event.tenant not in found:
                        execute.about(event.tenant)
                    found[event.tenant] = follow(event.tenant, found.get(event.tenant, START), event)
                    insert_event(execute, event)
                    events += 1
                case {"request": dict(fields)}:
                    values = [fields.get(name) for name in _REQUEST]
                    execute.about(str(fields.get("tenant")))
                    execute.later("INSERT INTO requests (tenant, key, fingerprint, first, last) VALUES (?, ?, ?, ?, ?)",
                                  [value for value in values if isinstance(value, str | int)])  # fmt: skip
                    requests += 1
                case {"volume": dict(fields)}:
                    tenant = str(fields.pop("tenant", ""))
                    execute.about(tenant)
                    insert_volumes(execute, tenant, [_volume(fields)])
                    volumes += 1
                case {"end": {"events": int(all_events), "requests": int(all_requests), **others}}:
                    # Backups of before there were volumes do not count them.
                    counted = (all_events, all_requests, others.get("volumes", 0))
                    if (events, requests, volumes) != counted or found != expected:
                        raise BackupError("Lines of the backup are missing. Take another.")
                    for tenant, head in found.items():
                        execute.about(tenant)
                        execute.later(
                            "INSERT INTO heads (tenant, position, digest) VALUES (?, ?, ?)",
                            (tenant, head.position, head.digest),
                        )
                    return found
                case _:
                    raise BackupError("A line of the backup is of an unknown kind. Restore it with what wrote it.")
        raise BackupError("The backup has no end: it was cut off. Take another.")


def _documents(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            raise BackupError(f"Line {number} of the backup is no JSON. Take another.") from None


def _heads(first: Any) -> dict[str, Head]:
    match first:
        case {"podlane_backup": 1, "heads": dict(heads)}:
            return {str(name): Head(**head) for name, head in heads.items()}
        case {"podlane_backup": int(newer)}:
            raise BackupError(f"The backup has the format {newer}. Restore it with the version that wrote it.")
    raise BackupError("This is no backup of a control plane. Name a file that `podlane control-plane backup` wrote.")


def _event(fields: dict[str, Any]) -> StoredEvent:
    try:
        return StoredEvent(**fields)
    except TypeError:
        raise BackupError("An event of the backup is incomplete. Take another.") from None


def _volume(fields: dict[str, Any]) -> DayVolume:
    try:
        return DayVolume(**fields)
    except TypeError:
        raise BackupError("A line of the backup is incomplete. Take another.") from None
