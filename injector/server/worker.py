"""The process for long work: ``python -m injector.server.worker``, with a stream socket as standard input.

Reads functions that are called without arguments, and writes ``(value, error)`` of each, one of them None. All are
pickled, which only the injector itself may write; an answer begins with its length. It has what the event loop leaves
of the processor, and the kernel bounds what each work may take: SIGXCPU ends it, as does memory that is lacking where
Python is not asked (setrlimit(2)).
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import re
import resource
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daemon.malloc import trim

# What the work needs, imported before its memory is bounded.
from injector.pod import admission as _admission  # noqa: F401
from injector.pod import happenings as _happenings  # noqa: F401
from injector.pod import policies as _policies  # noqa: F401
from injector.pod import templates as _templates  # noqa: F401
from injector.server import review as _review  # noqa: F401
from traffic_policy.cluster import outlook as _outlook  # noqa: F401

LENGTH: Final = struct.Struct("!Q")
MOST_SECONDS: Final = 5
"""Of the processor, for a work. What the limits of policies allow takes less than one."""
MOST_BYTES: Final = 24 * 2**20
"""Of memory, for a work. As Python objects a Pod takes ten times its size, and etcd stores 1.5 MiB."""
_NICE: Final = 10
"""A tenth of a processor where everybody wants one: with 19 it would be a hundredth, and long reviews be starved."""


def main() -> None:
    """Work until the injector ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the injector ends in order
    os.nice(_NICE)
    gc.collect()
    gc.freeze()
    _limit(resource.RLIMIT_DATA, _data_bytes() + MOST_BYTES)
    with socket.socket(fileno=0) as line, line.makefile("rwb") as stream:
        while True:
            try:
                work = pickle.load(stream)
            except EOFError:
                return
            _limit(resource.RLIMIT_CPU, math.ceil(sum(os.times()[:2])) + MOST_SECONDS)
            answer = _answer(work)
            stream.write(LENGTH.pack(len(answer)))
            stream.write(answer)
            stream.flush()
            del work, answer
            trim()


def _answer(work: Callable[[], object]) -> bytes:
    try:
        return pickle.dumps((work(), None))
    except Exception as error:  # noqa: BLE001 (it is the injector's)
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return pickle.dumps((None, error))


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts."""
    found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "every process has it (proc(5))"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
