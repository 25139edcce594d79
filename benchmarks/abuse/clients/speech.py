"""What the clients share: how they talk to the benchmark, and how they open many connections quickly."""

from __future__ import annotations

import json
import resource
import socket
import struct
import sys
from collections.abc import Mapping

PATIENCE = 10.0
"""Seconds after which a client gives up."""
LINGER_ZERO = struct.pack("ii", 1, 0)


def say(**what: float | str) -> None:
    """Tell the benchmark."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def arguments() -> Mapping[str, str]:
    """The command line: ``name=value`` words."""
    return dict(word.split("=", 1) for word in sys.argv[1:])


def allow_many_files() -> None:
    """As many as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def get(host: str, path: str, *, close: bool = False) -> bytes:
    """A request."""
    end = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n".encode()


def reset(connection: socket.socket) -> None:
    """Close it with RST (socket(7), SO_LINGER with 0 s)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    connection.close()
