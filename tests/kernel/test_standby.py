"""A proxy's copy that waits: what it keeps, when it begins, and when it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from waiting import until

from sidecar.supervisor.heartbeat import new_page
from sidecar.supervisor.ipc import Wire

PROXY = """
import os, sys
from sidecar.app.standby import begin
wire, kept, other = map(int, sys.argv[1:])
guard = begin(wire, standby=True, kept=[kept])
try:
    os.fstat(other)
    has = "all"
except OSError:
    has = "its own"
os.write(kept, f"{os.getpid()} {guard.again} {has}\\n".encode())
wire = guard._wire
wire.receive()
"""


def welcome(wire: Wire, *, again: bool) -> None:
    page = new_page()
    wire.send("welcome", {"restarts": {}, "again": again, "ids": None, "heirloom": None}, [page])
    os.close(page)


def test_a_copy_waits_is_welcomed_and_has_a_copy_itself() -> None:
    with ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept, said = os.pipe()
        watched, other = os.pipe()
        proxy = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PROXY, str(theirs.fileno()), str(said), str(other)],
                pass_fds=[theirs.fileno(), said, other],
            )
        )
        stack.callback(proxy.kill)
        theirs.close()
        os.close(said)
        os.close(other)
        lines = stack.enter_context(os.fdopen(kept))

        wire = Wire(ours)
        welcome(wire, again=False)
        message, [descriptor] = wire.receive()
        assert message is not None
        assert message["kind"] == "standby"
        comm = Path(f"/proc/{message['pid']}/comm")
        until("a standby", lambda: comm.read_text() == "podlane-standby\n")
        assert lines.readline() == f"{proxy.pid} False all\n"
        wire.close()
        proxy.wait(20)
        assert os.read(watched, 1) == b"", "whoever waits for the proxy's end sees it"
        os.close(watched)

        wire = Wire(socket.socket(fileno=descriptor))
        welcome(wire, again=True)
        following, [descriptor] = wire.receive()
        assert following is not None
        assert lines.readline() == f"{message['pid']} True its own\n"
        assert comm.read_text() != "podlane-standby\n"
        os.close(descriptor)
        wire.close()
        assert lines.read() == "", "with nobody to speak to them both end"
