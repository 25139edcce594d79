"""``podlane injector`` as it is measured: the real process, on a CPU of its own, with certificates made for the run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.admission.clients import HOST
from benchmarks.candidates.base import stop
from benchmarks.errors import CandidateError
from benchmarks.processes import process_seconds
from injector.server.certificates import Lifetimes, Step, take_step

_SAID: Final = 2000
"""Characters of its log that are told when it fails."""
OPTIONS: Final = ("--address", HOST, "--port", "0", "--metrics-port", "0", "--linger", "0s")


@dataclass(frozen=True, slots=True)
class Injector:
    """A running one. ``authority`` signed its certificate (PEM); ``log`` is there until it has ended."""

    pid: int
    port: int
    metrics_port: int
    authority: bytes
    log: Path

    def cpu_seconds(self) -> float:
        """CPU time that it has had, in seconds."""
        return process_seconds(self.pid)

    def waits(self) -> dict[str, float]:
        """Seconds that each of its threads could have run, but waited for a CPU that ran somebody else."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(OSError):
                found[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
        return found

    def proportional_mib(self) -> float:
        """Its memory now (PSS): pages that others use, too, such as Python's own, count by their share."""
        return _kib(self.pid, "smaps_rollup", "Pss") / 1024

    def peak_mib(self) -> float:
        """The most resident memory (RSS) that it ever had: what a container's limit is to allow at least."""
        return _kib(self.pid, "status", "VmHWM") / 1024


@contextmanager
def running(cpu: int | None = None, *options: str, **environment: str) -> Iterator[Injector]:
    """Run it for the block, on one CPU or on all, with further options and environment variables.

    Raises :class:`CandidateError` with its last words when it does not come up, or has ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="podlane-bench-") as name:
        folder = Path(name)
        made = take_step(Step.CREATE, None, datetime.now(UTC), [HOST], Lifetimes())
        (folder / "tls.crt").write_bytes(made.serving.certificate)
        (folder / "tls.key").write_bytes(made.serving.key)
        log = folder / "log"
        ready, theirs = os.pipe()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),  # it must not outlive a benchmark that is killed
                    *(() if cpu is None else ("taskset", "-c", str(cpu))),
                    *(sys.executable, "-m", "podlane", "injector", *OPTIONS, *options),
                    *("--certificate", str(folder / "tls.crt"), "--key", str(folder / "tls.key")),
                    *("--ready-fd", str(theirs)),
                ],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, pass_fds=[theirs], process_group=0,
                env={**_environment(), **environment},
            )  # fmt: skip
        os.close(theirs)
        try:
            with os.fdopen(ready) as pipe:
                ports = pipe.readline().split()
            if not ports:
                raise CandidateError(f"podlane injector did not come up. It said: {_last_words(log)}")
            try:
                yield Injector(process.pid, int(ports[0]), int(ports[1]), made.authority.certificate, log)
            except OSError:
                if process.poll() is None:
                    raise  # otherwise it is what comes of asking for a process that has ended
            if process.poll() is not None:
                raise CandidateError(f"podlane injector ended with {process.returncode}. It said: {_last_words(log)}")
        finally:
            stop(process)


def _kib(pid: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")  # every other has it (proc(5))
    return int(found[1])


def _environment() -> dict[str, str]:
    """Without what would change the injector: settings of its own, and an API server to ask."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PODLANE_", "KUBERNETES_"))}


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-_SAID:] or "nothing"
