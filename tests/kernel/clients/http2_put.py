"""PUT a file over HTTP/2: ADDRESS PORT NAME FILE [tls]. Exits with 0 when the server has taken it.

Not curl, which until 8.0 sends some bytes of a large body twice when a connection is slow to take the first ones.
"""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

address, port, name, path, *how = sys.argv[1:]
body = memoryview(Path(path).read_bytes())
sock = socket.create_connection((address, int(port)), timeout=20)
if how == ["tls"]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    sock = context.wrap_socket(sock, server_hostname=name)
http = H2Connection(H2Configuration(header_encoding="utf-8"))
http.initiate_connection()
scheme = "https" if how == ["tls"] else "http"
headers = [(":method", "PUT"), (":scheme", scheme), (":authority", f"{name}:{port}"), (":path", "/f")]
http.send_headers(1, [*headers, ("content-length", str(len(body)))], end_stream=not body)
status = None
while True:
    while body and (room := min(http.local_flow_control_window(1), http.max_outbound_frame_size, len(body))):
        http.send_data(1, bytes(body[:room]), end_stream=room == len(body))
        body = body[room:]
    sock.sendall(http.data_to_send())
    received = sock.recv(65536)
    if not received:
        sys.exit("the server closed the connection")
    for event in http.receive_data(received):
        if isinstance(event, ResponseReceived):
            status = dict(event.headers)[":status"]
        elif isinstance(event, DataReceived):
            http.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, StreamReset):
            sys.exit(f"the server reset the stream: {event.error_code}")
        elif isinstance(event, StreamEnded):
            sys.exit(0 if status in ("201", "204") else f"status {status}")
