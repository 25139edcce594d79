"""Run by Alembic: the migrations, in the transaction that :mod:`control_plane.store.migrate` has begun."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
