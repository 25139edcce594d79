"""What becomes of a connection whose class a name decides, for tests in which the proxy comes and goes."""

from __future__ import annotations

from typing import Final

from lab import connect

from podlane.netns.topology import PodNodeServer

REQUEST: Final = b"GET /who HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n"


def ask(topology: PodNodeServer, family: str = "ipv4", patience: float = 10.0) -> str:
    """``answered``, ``cut``, ``refused``, ``reset`` or, after ``patience`` seconds, ``waits``."""
    address = str(getattr(topology.server_link.a, family))
    try:
        with connect(topology.pod, address, 80, timeout=patience) as client:
            client.sendall(REQUEST)
            return "answered" if b"web.example.com" in client.makefile("rb").read() else "cut"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "waits"
