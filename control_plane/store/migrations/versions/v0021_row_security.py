"""PostgreSQL keeps tenants apart once more: a statement sees the rows of the tenant that its transaction has named.

``FORCE``, since else the tables' owner would see all. A superuser sees all in spite of it: what runs is therefore a
role of its own, which owns nothing (:class:`~control_plane.store.postgresql.PostgresDatabase`), where the role that
``--database`` names may make one. A table that is added later gets its policy by its own migration.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

ROLE: Final = "podlane_app"
_MINE: Final = "tenant = current_setting('app.tenant', true)"
_GUARDED: Final = (
    "events", "requests", "refusals", "refusal_heads", "read_checkpoints", "read_policies", "read_revisions",
    "read_clusters", "read_join_tokens", "read_agents", "read_tokens",
)  # fmt: skip
_ROLE: Final = (
    # Roles belong to the server, not to a database: others may make it at the same time. Who may not has none.
    f"""
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
            CREATE ROLE {ROLE} NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
    END $$
    """,
    f"""
    DO $$ BEGIN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema());
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO {ROLE}', current_schema());
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {ROLE}',
            current_schema());
        EXECUTE format('GRANT {ROLE} TO %I', current_user);
    EXCEPTION WHEN undefined_object OR insufficient_privilege THEN NULL;
    END $$
    """,
)


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in (*_GUARDED, "heads"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} USING ({_MINE}) WITH CHECK ({_MINE})")
    # Names of tenants, and how long their logs are: who lists tenants, or looks for what is new, needs them all.
    op.execute("CREATE POLICY all_heads ON heads FOR SELECT USING (true)")
    for statement in _ROLE:
        op.execute(statement)
