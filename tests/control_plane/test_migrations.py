"""Migrations only add, so that the version before goes on while this one is at the tables."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from control_plane.store import migrate
from control_plane.store.event_store import open_store
from control_plane.store.records import Cause, NewEvent

CONFIG = Config()
CONFIG.set_main_option("script_location", str(migrate._SCRIPTS))
REVISIONS = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()][::-1]
_OWN = "alembic_version"
_numbers = count(1)


@pytest.fixture
def engine(database_url: str) -> Engine:
    kind, _, rest = database_url.partition("://")
    url = f"postgresql+psycopg://{rest}" if kind == "postgresql" else database_url.replace("sqlite:", "sqlite:///")
    return create_engine(url)


def upgrade(connection: Connection, revision: str) -> None:
    CONFIG.attributes["connection"] = connection
    command.upgrade(CONFIG, revision)


def tables(connection: Connection) -> dict[str, dict[str, Any]]:
    """Columns by table."""
    found = inspect(connection)
    return {
        table: {column["name"]: column for column in found.get_columns(table)}
        for table in found.get_table_names()
        if table != _OWN
    }


def insert(connection: Connection, table: str, columns: dict[str, Any]) -> None:
    """A row, by a statement that knows these columns alone."""
    number = next(_numbers)
    values = {
        name: number if "INT" in str(column["type"]).upper() else f"x{number}" for name, column in columns.items()
    }
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)


def test_each_leaves_what_was_there_and_the_statements_of_all_before_it(engine: Engine) -> None:
    assert len(REVISIONS) >= 6
    steps: list[dict[str, dict[str, Any]]] = []
    for revision in REVISIONS:
        with engine.begin() as connection:
            upgrade(connection, revision)
        with engine.begin() as connection:
            now = tables(connection)
            for before in steps[-1:]:
                for table, columns in before.items():
                    there = {name: str(now[table][name]["type"]) for name in columns}
                    assert there == {name: str(column["type"]) for name, column in columns.items()}, revision
                    for name in now[table].keys() - columns.keys():
                        column = now[table][name]
                        assert column["nullable"] or column["default"] is not None, (
                            f"{revision}: {table}.{name} needs a default: the version before does not write it"
                        )
            steps.append(now)
            for known in steps:
                for table, columns in known.items():
                    insert(connection, table, columns)
    engine.dispose()


def test_a_process_of_the_version_before_starts_again_on_newer_tables(engine: Engine, database_url: str) -> None:
    store = open_store(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("ALTER TABLE heads ADD COLUMN added_later TEXT NOT NULL DEFAULT ''"))
    again = open_store(database_url)
    event = NewEvent("tenant", "TenantCreated", {"title": "x"})
    assert [each.position for each in again.append("shop", 0, [event], Cause("test", 1))] == [1]
    assert [each.position for each in store.read("shop")] == [1]
    for each in (store, again):
        each.close()
    engine.dispose()
