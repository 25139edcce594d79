"""Takes the sidecar's names and ports whenever they are free, so that the next one cannot start.

    python bind_names.py SECONDS PORT ...

Binds the abstract Unix sockets "podlane/sidecar" and "podlane/supervisor", and each TCP PORT of 127.0.0.1 and ::1, and
listens there; what is taken now is tried again all the time. Needs no capability, and no user in particular. Prints
"begun" after the first attempts, and a line for each thing that it gets later.
"""

from __future__ import annotations

import socket
import sys
import time

NAMES = ("podlane/sidecar", "podlane/supervisor")
ADDRESSES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


def listen(family: int, address: object) -> socket.socket | None:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener


def main() -> None:
    seconds, *ports = map(int, sys.argv[1:])
    wanted = [(socket.AF_UNIX, f"\0{name}") for name in NAMES]
    wanted += [(family, (address, port)) for port in ports for address, family in ADDRESSES.items()]
    taken = []
    begun = False
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for each in list(wanted):
            if (listener := listen(*each)) is not None:
                taken.append(listener)
                wanted.remove(each)
                if begun:
                    print("took", repr(each[1]), flush=True)
        if not begun:
            begun = True
            print("begun", flush=True)
        time.sleep(0.001)  # no event tells a program without capabilities that a port has become free


main()
