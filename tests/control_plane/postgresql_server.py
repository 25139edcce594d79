"""A PostgreSQL server of Debian's packages, as tests have it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from waiting import until

OPTIONS = ["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--username=postgres"]


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


class PostgresServer:
    """Keeps its folder, which has its socket, when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        self._data = str(folder / "data")
        subprocess.run([*as_postgres("initdb"), *OPTIONS, "-D", self._data], check=True, capture_output=True)
        self._process: subprocess.Popen[bytes] | None = None

    def _begin(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*as_postgres("postgres"), "-D", self._data, *options], stdout=log, stderr=log
            )

    def start(self) -> None:
        self._begin()
        ready = [*as_postgres("pg_isready"), "-q", "-h", str(self.folder)]

        def answers() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                # Those whom the killed one has left hold its memory for a moment.
                self._begin()
            return subprocess.run(ready, check=False).returncode == 0

        until("PostgreSQL", answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        # Whoever is connected is put out.
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def create(self, name: str) -> str:
        """A database's URL."""
        subprocess.run([*as_postgres("createdb"), "-U", "postgres", "-h", str(self.folder), name], check=True)
        return f"postgresql://postgres@/{name}?host={self.folder}"
