"""A PostgreSQL server for the tests of a session, each of which gets a database of its own; certificates for all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from gateway_harness import Authority
from postgresql_server import PostgresServer, server_programs

_numbers = count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    if server_programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="podlane-pg-") as name:
        server = PostgresServer(Path(name))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgresql_database(postgresql: PostgresServer) -> Callable[[], str]:
    """Makes databases of PostgreSQL, and says their URL."""
    return lambda: postgresql.create(f"test{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes databases, and says their URL."""
    if request.param == "sqlite":
        return lambda: f"sqlite:{tmp_path}/{next(_numbers)}.db"
    create: Callable[[], str] = request.getfixturevalue("postgresql_database")
    return create


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates for a gateway and its agents."""
    return Authority(tmp_path_factory.mktemp("certificates"))
