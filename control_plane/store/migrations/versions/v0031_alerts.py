"""Tables that queries about alerts read, made from the events."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_TABLES: Final = {
    "read_alert_rules": """
        CREATE TABLE read_alert_rules (
            tenant TEXT NOT NULL,
            name {text} NOT NULL,
            version BIGINT NOT NULL,
            kind TEXT NOT NULL,
            severity TEXT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (tenant, name)
        )
    """,
    "read_alert_channels": """
        CREATE TABLE read_alert_channels (
            tenant TEXT NOT NULL,
            name {text} NOT NULL,
            version BIGINT NOT NULL,
            kind TEXT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (tenant, name)
        )
    """,
    "read_silences": """
        CREATE TABLE read_silences (
            tenant TEXT NOT NULL,
            id {text} NOT NULL,
            version BIGINT NOT NULL,
            ends_at BIGINT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (tenant, id)
        )
    """,
    "read_alerts": """
        CREATE TABLE read_alerts (
            tenant TEXT NOT NULL,
            id {text} NOT NULL,
            rule {text} NOT NULL,
            state TEXT NOT NULL,
            severity TEXT NOT NULL,
            labels TEXT NOT NULL,
            annotations TEXT NOT NULL,
            value TEXT NOT NULL,
            since BIGINT NOT NULL,
            at BIGINT NOT NULL,
            ended BIGINT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (tenant, id)
        )
    """,
}
_MINE: Final = "tenant = current_setting('app.tenant', true)"


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table, statement in _TABLES.items():
        op.execute(statement.format(text='TEXT COLLATE "C"' if postgresql else "TEXT"))
        if postgresql:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY own_tenant ON {table} USING ({_MINE}) WITH CHECK ({_MINE})")
