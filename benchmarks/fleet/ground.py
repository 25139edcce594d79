"""``podlane control-plane`` as it is measured, the real process, and simulated agents in another."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self

from benchmarks.candidates.base import stop
from benchmarks.errors import CandidateError
from benchmarks.processes import process_seconds, wait_until

_PATIENCE: Final = 900.0
_KEPT: Final = 2.0
"""Seconds for which a connection may be idle and used again: uvicorn closes it after five."""
_SAID: Final = 2000
"""Characters of a log that are told when a process fails."""
_BIND: Final = ("setpriv", "--pdeathsig", "KILL", "--")
"""It must not outlive a benchmark that is killed."""


class Server:
    """A control plane on SQLite or PostgreSQL, on some CPUs; it keeps its ports when it starts again."""

    def __init__(self, folder: Path, cpus: str, database: str = "") -> None:
        self._folder = folder
        self._log = folder / "control-plane.log"
        self.port, self.agents_port = _free_port(), _free_port()
        self._command = [
            *_BIND, "taskset", "-c", cpus, sys.executable, "-m", "podlane", "control-plane", "--state", str(folder),
            "--port", str(self.port), "--agents-port", str(self.agents_port), "--rate-limit", "0",
            *(("--database", database) if database else ()),
        ]  # fmt: skip
        self.token = ""
        """The first administrator's."""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end(signal.SIGTERM)

    def start(self) -> None:
        """Start it, and wait until it serves. Raises :class:`CandidateError`."""
        reader, writer = os.pipe()
        token = self._folder / "token"
        with self._log.open("ab") as log, token.open("ab") as out:
            self._process = subprocess.Popen(
                [*self._command, "--ready-fd", str(writer)], stdout=out, stderr=log, pass_fds=[writer]
            )
        os.close(writer)
        with os.fdopen(reader) as ready:
            if not ready.readline():
                raise CandidateError(f"podlane control-plane has ended. It said: {self._last_words()}")
        self.token = token.read_text().strip()

    def end(self, number: int) -> None:
        """Signal it, and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            stop(process, number)

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None or self._process.poll() is not None:
            raise CandidateError(f"podlane control-plane has ended. It said: {self._last_words()}")
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time so far, with that of threads that have ended."""
        return process_seconds(self.pid)

    def client(self) -> RestClient:
        """Of its REST API, as the first administrator."""
        return RestClient(self.port, self.token)

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace").strip()[-_SAID:] or "nothing"


class RestClient:
    """One kept connection. Raises :class:`CandidateError` when something is refused."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._asked = 0.0
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, document: object = None) -> Any:
        """``path`` is below the tenant ``default``."""
        body = None if document is None else json.dumps(document)
        if time.monotonic() - self._asked > _KEPT:
            self._connection.close()
        try:
            self._connection.request(method, f"/v1/tenants/default{path}", body, self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
            self._asked = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise CandidateError(f"{method} {path}: {error}") from None
        if answer.status >= 300:
            raise CandidateError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None

    def close(self) -> None:
        self._connection.close()


class Agents:
    """Simulated ones, on some CPUs. What they tell each second is in :attr:`told`."""

    def __init__(self, folder: Path, cpus: str, count: int, port: int, tokens: Path, lanes: Sequence[str] = ()) -> None:
        """``lanes``: of which they report, if not of the usual ones."""
        self.count = count
        self.told: Mapping[str, Any] = {}
        self.joined: Mapping[str, float] = {}
        arguments = {
            "address": f"127.0.0.1:{port}", "count": count, "data": str(folder / "agents"), "tokens": str(tokens),
            "lanes": list(lanes),
        }  # fmt: skip
        self._command = [
            *_BIND, "taskset", "-c", cpus, sys.executable, "-m", "benchmarks.fleet.agents", json.dumps(arguments),
        ]  # fmt: skip
        self._log = folder / "agents.log"
        self.tokens = tokens
        self._process: subprocess.Popen[str] | None = None
        self._reader: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def start(self) -> None:
        """Start them, and do not wait."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.told, self.joined = {}, {}
        self._reader = Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def end(self) -> None:
        """All go away."""
        process, self._process = self._process, None
        if process is not None:
            stop(process)
            assert self._reader is not None
            self._reader.join()
            assert process.stdout is not None
            process.stdout.close()

    def wait(self, what: str, ask: Any) -> None:
        """Until ``ask`` says yes. Raises :class:`CandidateError` when they end before."""
        wait_until(what, self.pid, ask, patience=_PATIENCE)

    def wait_connected(self) -> None:
        """Until all are."""
        self.wait("all agents connected", lambda: self.told.get("connected") == self.count)

    def having(self, revision: int) -> dict[str, float]:
        """How many have a revision, and when they had (seconds of CLOCK_MONOTONIC); empty: nobody has."""
        found: dict[str, float] = self.told.get("revisions", {}).get(str(revision), {})
        return found

    def wait_having(self, revision: int) -> dict[str, float]:
        """Until all have it."""
        self.wait(f"revision {revision} everywhere", lambda: self.having(revision).get("count", 0) >= self.count)
        return self.having(revision)

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None or self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip()[-_SAID:]
            raise CandidateError(f"the simulated agents have ended. They said: {said or 'nothing'}")
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return process_seconds(self.pid)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "joined_s" in said:
                self.joined = said
            else:
                self.told = said


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
