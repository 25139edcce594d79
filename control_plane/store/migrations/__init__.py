"""Alembic's scripts: ``versions`` has one module for each change of the tables."""
