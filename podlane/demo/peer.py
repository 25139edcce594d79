"""The peer of every transfer: a process that receives uploads, sends downloads, and reports the number of bytes.

Behind nginx it serves HTTP/1.1 on a unix socket. A request with a body, which nginx passes on in chunks, is answered
with ``{"received": N}`` once the body is complete, so that a client learns whether every byte arrived. ``GET /NAME`` is
answered with bytes until a line ``NAME`` arrives on standard input; then the answer ends properly. On a TCP port it
accepts any bytes.

On standard output it prints ``ready`` when both listen, and then a JSON line ``{"name": NAME, "bytes": N}`` for every
ended download, and, as :data:`RAW`, for every sender on the TCP port.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, ThreadingTCPServer, ThreadingUnixStreamServer
from threading import Event, Thread
from typing import Any, Final

RAW: Final = "(raw)"
_CHUNK: Final = 256 * 1024
"""Bytes read at once: some milliseconds of traffic at the demo's rates."""
_PIECE: Final = bytes(32 * 1024)
"""Bytes given at once: little, so that a download that is to end has little on its way."""

_endings: Final[defaultdict[str, Event]] = defaultdict(Event)
"""Which downloads are to end."""


def _say(text: str) -> None:
    # In one piece: threads write side by side.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say_count(name: str, count: int) -> None:
    _say(json.dumps({"name": name, "bytes": count}))


class _Http(BaseHTTPRequestHandler):
    """A request from nginx. An error that a transfer cut short ends in the connection's end: its client reports it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._begin("application/octet-stream", "Transfer-Encoding", "chunked")
        given, ending = 0, _endings[self.path.lstrip("/")]
        while not ending.is_set():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE))
            given += len(_PIECE)
        self.wfile.write(b"0\r\n\r\n")
        _say_count(self.path.lstrip("/"), given)

    def do_PUT(self) -> None:
        received = 0
        while size := int(self.rfile.readline(), 16):
            received += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        body = json.dumps({"received": received}).encode()
        self._begin("application/json", "Content-Length", str(len(body)))
        self.wfile.write(body)

    def _begin(self, kind: str, framing: str, value: str) -> None:
        self.send_response(200)
        for header in (("Content-Type", kind), (framing, value), ("Connection", "close")):
            self.send_header(*header)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


class _Raw(BaseRequestHandler):
    """A sender on the TCP port. What came before a reset counts all the same."""

    def handle(self) -> None:
        received = 0
        with suppress(ConnectionError):
            while data := self.request.recv(_CHUNK):
                received += len(data)
        _say_count(RAW, received)


class _HttpServer(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        return


class _RawServer(ThreadingTCPServer):
    daemon_threads = True


def main(unix_path: str, address: str, port: str) -> None:
    """Serve HTTP on the unix socket and any bytes on the TCP port, until end of file on standard input."""
    for server in (_HttpServer(unix_path, _Http), _RawServer((address, int(port)), _Raw)):
        Thread(target=server.serve_forever, daemon=True).start()
    _say("ready")
    for line in sys.stdin:
        _endings[line.strip()].set()


if __name__ == "__main__":
    main(*sys.argv[1:])
