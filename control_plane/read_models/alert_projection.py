"""What an event about alerts changes in the tables that queries read. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from control_plane.domain.alert_book import MOST_RESOLVED
from control_plane.domain.events import (
    AlertChannelRemoved,
    AlertChannelSet,
    AlertEvent,
    AlertFired,
    AlertResolved,
    AlertRuleRemoved,
    AlertRuleSet,
    SilenceEnded,
    SilenceSet,
)
from control_plane.read_models.statement import Statement
from control_plane.store.chain import canonical

_RESOLVED: Final = "state = 'resolved'"
_FORGET: Final = (
    f"DELETE FROM read_alerts WHERE tenant = ? AND {_RESOLVED} AND id NOT IN (SELECT r.id FROM read_alerts r "
    f"WHERE r.tenant = ? AND r.{_RESOLVED} ORDER BY r.ended DESC, r.id DESC LIMIT {MOST_RESOLVED})"
)


def of_alerts(tenant: str, position: int, event: AlertEvent) -> Iterator[Statement]:
    """The statements of the event at a position."""
    match event:
        case AlertRuleSet(name, document):
            yield (
                (
                    "INSERT INTO read_alert_rules (tenant, name, version, kind, severity, document) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, name) DO UPDATE SET version = excluded.version, "
                    "kind = excluded.kind, severity = excluded.severity, document = excluded.document"
                ),
                (tenant, name, position, document["kind"], document["severity"], canonical(document)),
            )
        case AlertRuleRemoved(name, at):
            yield "DELETE FROM read_alert_rules WHERE tenant = ? AND name = ?", (tenant, name)
            yield (
                (
                    "UPDATE read_alerts SET state = 'resolved', ended = ?, reason = 'the rule was removed' "
                    "WHERE tenant = ? AND rule = ? AND state = 'firing'"
                ),
                (at, tenant, name),
            )
            yield _FORGET, (tenant, tenant)
        case AlertChannelSet(name, document):
            yield (
                (
                    "INSERT INTO read_alert_channels (tenant, name, version, kind, document) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (tenant, name) DO UPDATE SET version = excluded.version, kind = excluded.kind, "
                    "document = excluded.document"
                ),
                (tenant, name, position, document["kind"], canonical(document)),
            )
        case AlertChannelRemoved(name):
            yield "DELETE FROM read_alert_channels WHERE tenant = ? AND name = ?", (tenant, name)
        case SilenceSet(id, document, at):
            yield "DELETE FROM read_silences WHERE tenant = ? AND ends_at <= ?", (tenant, at)
            yield (
                (
                    "INSERT INTO read_silences (tenant, id, version, ends_at, document) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (tenant, id) DO UPDATE SET version = excluded.version, ends_at = excluded.ends_at, "
                    "document = excluded.document"
                ),
                (tenant, id, position, document["ends_at"], canonical(document)),
            )
        case SilenceEnded(id):
            yield "DELETE FROM read_silences WHERE tenant = ? AND id = ?", (tenant, id)
        case AlertFired(rule, id, labels, annotations, value, since, at):
            yield "DELETE FROM read_alerts WHERE tenant = ? AND id = ?", (tenant, id)
            yield (
                (
                    "INSERT INTO read_alerts (tenant, id, rule, state, severity, labels, annotations, value, since, "
                    "at, ended, reason) VALUES (?, ?, ?, 'firing', ?, ?, ?, ?, ?, ?, 0, '')"
                ),
                (
                    tenant, id, rule, labels["severity"], canonical(labels), canonical(annotations), json.dumps(value),
                    since, at,
                ),
            )  # fmt: skip
        case AlertResolved(_, id, at, reason):
            yield (
                "UPDATE read_alerts SET state = 'resolved', ended = ?, reason = ? WHERE tenant = ? AND id = ?",
                (at, reason, tenant, id),
            )
            yield _FORGET, (tenant, tenant)
