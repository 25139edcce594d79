"""Brings the tables of a database to this version, by Alembic. SQLAlchemy is used for nothing else.

Migrations only add: processes of the version before go on with the tables of this one, and may be started again. A
column that an old table gets has a default; what is no longer needed is removed a version after nobody uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from control_plane.store.errors import StoreError
from daemon.log import Logger

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x506F644C
"""The advisory lock of migrations: "PodL"."""


log = Logger()


def migrate_sqlite(path: Path) -> None:
    """Raises :class:`StoreError`."""
    engine = create_engine(URL.create("sqlite", database=str(path)))

    # pysqlite would begin a transaction only before INSERT, and not before CREATE TABLE.
    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    _upgrade(engine)


def migrate_postgresql(url: str) -> None:
    """Raises :class:`StoreError`."""
    head, _, rest = url.partition("://")
    assert head in ("postgresql", "postgres")
    _upgrade(create_engine(f"postgresql+psycopg://{rest}"), f"SELECT pg_advisory_xact_lock({_LOCK})")


def _upgrade(engine: Engine, lock: str = "") -> None:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    try:
        with engine.begin() as connection:
            if lock:
                connection.execute(text(lock))
            config.attributes["connection"] = connection
            if newer := _unknown(connection, config):
                log.warning("a newer version has been at these tables; they are used as they are", revision=newer)
                return
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        told = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise StoreError(f"The tables cannot be brought to this version: {told}. Nothing was changed.") from None
    finally:
        engine.dispose()


def _unknown(connection: Connection, config: Config) -> str:
    """A revision that the tables have, and that is none of ours; empty: there is none."""
    ours = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    theirs = MigrationContext.configure(connection).get_current_heads()
    return next((revision for revision in theirs if revision not in ours), "")
