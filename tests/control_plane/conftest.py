"""A PostgreSQL server for the tests of a session, each of which gets a database of its own; certificates for all."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from gateway_harness import Authority
from waiting import until

OPTIONS = ["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--username=postgres"]
_numbers = count()


def server_programs() -> Path | None:
    """Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def as_postgres(program: str) -> list[str]:
    """PostgreSQL refuses root."""
    programs = server_programs()
    assert programs is not None
    drop = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return [*drop, str(programs / program)]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Path]:
    """The folder with the server's socket."""
    if server_programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="podlane-pg-") as name:
        folder, data = Path(name), Path(name) / "data"
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        subprocess.run([*as_postgres("initdb"), *OPTIONS, "-D", str(data)], check=True, capture_output=True)
        settings = {"listen_addresses": "", "unix_socket_directories": name, "fsync": "off"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([*as_postgres("postgres"), "-D", str(data), *options], stdout=log, stderr=log)
        try:
            ready = [*as_postgres("pg_isready"), "-q", "-h", name]
            until("PostgreSQL", lambda: subprocess.run(ready, check=False).returncode == 0)
            yield folder
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def postgresql_database(postgresql: Path) -> Callable[[], str]:
    """Makes databases of PostgreSQL, and says their URL."""

    def create() -> str:
        name = f"test{next(_numbers)}"
        subprocess.run([*as_postgres("createdb"), "-U", "postgres", "-h", str(postgresql), name], check=True)
        return f"postgresql://postgres@/{name}?host={postgresql}"

    return create


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
