"""Listens on a port of the relay beside its workers, and accepts nothing, so that a share of all connections is lost.

    python join_port.py SECONDS PORT

Needs the sidecar's user id (0 in a Pod), no capability, and a sidecar with several workers: sockets of one user may
share a port if all of them say so (socket(7), SO_REUSEPORT). Prints "begun", or the error.
"""

from __future__ import annotations

import signal
import socket
import sys


def main() -> None:
    seconds, port = map(int, sys.argv[1:])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError as error:
            print(error.strerror, flush=True)
            return
        print("begun", flush=True)
        signal.alarm(seconds)
        signal.pause()  # until it is killed, or its time is over


main()
