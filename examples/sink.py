"""An HTTP server that takes uploads and throws them away: ``python3 examples/sink.py PORT``."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Sink(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 65536)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the clients print what there is to see."""


ThreadingHTTPServer(("", int(sys.argv[1])), Sink).serve_forever()
