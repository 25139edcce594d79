"""A PostgreSQL server of this machine's packages for one run, durable as by default, on a Unix socket alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.errors import CandidateError
from benchmarks.processes import wait_until

_INITDB: Final = ("--auth=trust", "--no-instructions", "--encoding=UTF8", "--locale=C", "--username=postgres")
MISSING: Final = "PostgreSQL is not installed: apt-get install postgresql"


def programs() -> Path | None:
    """The folder of the newest; Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


@contextmanager
def postgresql() -> Iterator[tuple[str, int]]:
    """The URL of an empty database, and the server's process. Raises :class:`CandidateError`."""
    found = programs()
    if found is None:
        raise CandidateError(MISSING)
    # It refuses root, and wants a short path for its socket.
    drop = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="podlane-pg-") as name:
        folder = Path(name)
        if drop:
            shutil.chown(folder, "postgres")
        data = str(folder / "data")
        done = subprocess.run(
            [*drop, str(found / "initdb"), *_INITDB, "-D", data], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CandidateError(f"initdb failed: {done.stderr.strip()[-300:]}")
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "QUIT", "--", *drop, str(found / "postgres"), "-D", data,
                 "-c", "listen_addresses=", "-c", f"unix_socket_directories={name}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        ready = [*drop, str(found / "pg_isready"), "-q", "-h", name]
        try:
            wait_until("PostgreSQL", server.pid, lambda: subprocess.run(ready, check=False).returncode == 0)
            yield f"postgresql://postgres@/postgres?host={name}", server.pid
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
