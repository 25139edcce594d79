"""The demo's QUIC lane: whether it can be shown here, and its two programs, which need aioquic.

The programs are :mod:`podlane.demo.quic_sender` and :mod:`podlane.demo.quic_receiver`.
"""

from __future__ import annotations

import importlib.util
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datapath.stepaside.features import probe
from podlane.demo.programs import guarded, last_words
from podlane.demo.scenario import TLS_PORT, Client, Lane, Part
from podlane.errors import DemoError
from podlane.netns import Host

_START_PATIENCE: Final = 15.0
"""Seconds until the server listens, on a busy machine."""
_MODULE: Final = [sys.executable, "-P", "-m"]


def quic_lanes(part: Part) -> tuple[str, ...]:
    """The lanes of a part whose programs speak QUIC."""
    return tuple(lane.name for lane in part.lanes if lane.client is Client.QUIC)


def quic_missing() -> str | None:
    """Why QUIC cannot be shown here, and the remedy; None when it can."""
    if importlib.util.find_spec("aioquic") is None:
        return "aioquic is not installed. To have it: pip install 'podlane[demo]'"
    # With either datapath the classifier finds QUIC by what stepping aside is made of.
    found = probe()
    return None if found.available else f"{found.reason} {found.remedy}"


@dataclass(frozen=True, slots=True)
class QuicServer:
    """The server of the lane, running."""

    process: subprocess.Popen[Any]
    log: Path

    def check(self) -> None:
        """Raise :class:`DemoError` when it is gone."""
        if self.process.poll() is not None:
            raise DemoError(f"The QUIC server ended with {self.process.returncode}.{last_words(self.log)}")


def start_quic_server(host: Host, folder: Path, address: str, certificate: Path, key: Path) -> QuicServer:
    """Start it on ``host`` and wait until it listens on UDP port 443. Raises :class:`DemoError`."""
    log = folder / "quic.log"
    argv = [*_MODULE, "podlane.demo.quic_receiver", address, str(TLS_PORT), str(certificate), str(key)]
    with log.open("ab") as stream:
        process = host.popen(
            guarded(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stream, start_new_session=True
        )
    server = QuicServer(process, log)
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _START_PATIENCE)[0]:
        raise DemoError(f"The QUIC server is not ready within {_START_PATIENCE:g} s.{last_words(log)}")
    # One line comes, or the end of a process that could not start.
    if not process.stdout.readline():
        process.wait()
        server.check()
    return server


def quic_sender_command(lane: Lane, server: str, certificate: Path) -> list[str]:
    """The client of a lane, which uploads what comes on its standard input."""
    assert lane.resolve is not None
    name, port = lane.resolve
    return [*_MODULE, "podlane.demo.quic_sender", server, str(port), name, str(certificate)]
