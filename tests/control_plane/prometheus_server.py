"""Debian's Prometheus, for a test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from waiting import until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def prometheus_server(folder: Path, configuration: str = "{}\n") -> Iterator[str]:
    """Its URL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: make test-packages")
    (folder / "prometheus.yml").write_text(configuration)
    place = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--web.listen-address={place}",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    with (folder / "log").open("w") as said, subprocess.Popen(command, stderr=said, stdout=said) as process:

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return urlopen(f"http://{place}/-/ready", timeout=5).status == 200
            except URLError:
                return False

        try:
            until("Prometheus", ready)
            yield f"http://{place}"
        finally:
            process.terminate()
