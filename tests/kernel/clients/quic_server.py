"""An HTTP/3 server that greets everybody: quic_server.py ADDRESS CERTIFICATE KEY PORT RETRY_PORT.

On RETRY_PORT it sends every client a Retry first. It says "listening" once it does.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent
from aioquic.quic.packet import QuicProtocolVersion


class Greeter(QuicConnectionProtocol):
    """Answers each request as soon as its header fields are there."""

    http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated) and event.alpn_protocol in H3_ALPN:
            self.http = H3Connection(self._quic)
        if self.http is None:
            return
        for request in self.http.handle_event(event):
            if isinstance(request, HeadersReceived):
                name = cast("bytes", dict(request.headers).get(b":authority", b""))
                self.http.send_headers(request.stream_id, [(b":status", b"200"), (b"content-type", b"text/plain")])
                self.http.send_data(request.stream_id, name + b" over HTTP/3", end_stream=True)
                self.transmit()


async def main(address: str, certificate: str, key: str, port: int, retry_port: int) -> None:
    """Serve until killed."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=[*H3_ALPN, "hq-interop"],
        supported_versions=[QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2],
    )
    configuration.load_cert_chain(certificate, key)
    for number in (port, retry_port):
        await serve(address, number, configuration=configuration, create_protocol=Greeter, retry=number == retry_port)
    print("listening", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])))
