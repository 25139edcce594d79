"""An HTTPS server that offers HTTP/3: alt_svc_server.py ADDRESS CERTIFICATE KEY PORT.

Its page asks three times, one after the other, by what protocol it is answered; here the answer is "over TCP". It says
"listening" once it does.
"""

from __future__ import annotations

import http.server
import ssl
import sys

_PAGE = b"""<!doctype html><body><script>
for (let i = 0; i < 3; i++) {
  const ask = new XMLHttpRequest();
  ask.open("GET", "/again" + i, false);
  ask.send();
  document.write("<p>" + ask.responseText);
}
</script>"""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = _PAGE if self.path == "/" else b"over TCP"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Alt-Svc", f'h3=":{self.server.server_address[1]}"; ma=3600')
        self.end_headers()
        self.wfile.write(body)


address, certificate, key, port = sys.argv[1:5]
server = http.server.ThreadingHTTPServer((address, int(port)), _Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("listening", flush=True)
server.serve_forever()
