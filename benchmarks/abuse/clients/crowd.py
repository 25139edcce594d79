"""Connections that are there and do next to nothing: ``crowd address= port= host= path= idle= slow= period=``.

Idle ones make one request and then keep silent. Slow ones send a head that never ends, a byte each ``period`` seconds.
Prints ``idle``, ``slow`` and ``failed`` when all are there; at the end how many are still open, and ``sent``, the bytes
of the slow ones.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from benchmarks.abuse.clients.speech import PATIENCE, allow_many_files, arguments, get, say

_GIVE_UP_AFTER = 20
"""Failures in a row after which the rest is not tried."""
_TICK = 0.02
"""Seconds between two turns of the slow ones."""


class _Crowd:
    def __init__(self, address: str, port: int) -> None:
        self._where = (address, port)
        self._in_a_row = 0
        self.failed = 0
        self.idle: list[socket.socket] = []
        self.slow: list[socket.socket] = []

    def gather(self, idle: int, slow: int, request: bytes) -> None:
        """Open them, in turn."""
        for number in range(max(idle, slow)):
            if number < idle:
                self._open(self.idle, request, answered=True)
            if number < slow:
                self._open(self.slow, request[:1], answered=False)
            if self._in_a_row >= _GIVE_UP_AFTER:
                break
        self.failed = idle + slow - len(self.idle) - len(self.slow)

    def _open(self, kept: list[socket.socket], first: bytes, *, answered: bool) -> None:
        try:
            connection = socket.create_connection(self._where, PATIENCE)
            connection.sendall(first)
            if answered and not connection.recv(65536):
                raise OSError
        except OSError:
            self._in_a_row += 1
            return
        self._in_a_row = 0
        connection.setblocking(False)
        kept.append(connection)


def _drip(crowd: _Crowd, endless: bytes, period: float) -> int:
    """Every slow one sends a byte per ``period``, at evenly spread times, until standard input ends; the bytes sent."""
    told = select.poll()
    told.register(sys.stdin, select.POLLIN | select.POLLHUP)
    sent = [0] * len(crowd.slow)
    began, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) / period * len(sent))
        for turn in range(done, due):
            at = turn % len(sent)
            try:
                crowd.slow[at].send(endless[sent[at] + 1 : sent[at] + 2] or b"a")
            except OSError:
                continue
            sent[at] += 1
        done = due
        if told.poll(_TICK * 1000):
            return sum(sent)


def _still_open(connections: list[socket.socket]) -> int:
    return sum(map(_is_open, connections))


def _is_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def main(address: str, port: int, host: str, path: str, idle: int, slow: int, period: float) -> None:
    """Gather, report, drip, report."""
    allow_many_files()
    crowd = _Crowd(address, port)
    request = get(host, path)
    crowd.gather(idle, slow, request)
    say(idle=len(crowd.idle), slow=len(crowd.slow), failed=crowd.failed)
    sent = _drip(crowd, request.removesuffix(b"\r\n") + b"X-Slow: ", period)
    say(idle=_still_open(crowd.idle), slow=_still_open(crowd.slow), sent=sent)


if __name__ == "__main__":
    _given = arguments()
    main(
        _given["address"],
        int(_given["port"]),
        _given["host"],
        _given["path"],
        int(_given["idle"]),
        int(_given["slow"]),
        float(_given["period"]),
    )
