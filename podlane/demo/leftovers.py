"""One directory per demo in /run, and removal of the remains of killed demos.

A demo holds flock(2) on its directory, which the kernel releases with the process, however that ends. So a directory
that can be locked belongs to a dead demo, and the namespaces with its name as prefix are unused.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from podlane.netns import Namespace
from podlane.netns.namespace import NAMES

PREFIX: Final = "podlane-demo"
_RUN: Final = Path("/run")


@contextmanager
def own_folder() -> Iterator[Path]:
    """A locked directory of this demo, readable by root only; removed with its content at the end of the block."""
    path = _RUN / f"{PREFIX}-{os.getpid()}"
    # Made and locked under a name that no sweep looks for.
    making = _RUN / f".{path.name}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    try:
        descriptor = os.open(making, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            making.rename(path)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def sweep() -> list[str]:
    """Remove the remains of dead demos: their processes, namespaces and directories. Return the names of those
    demos."""
    return [path.name for path in sorted(_RUN.glob(f"{PREFIX}-*")) if _sweep_one(path)]


def _sweep_one(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # a living demo's
    else:
        for name in sorted(NAMES.glob(f"{path.name}-*")):
            namespace = Namespace(name.name)
            for pid in namespace.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            namespace.delete()
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)
