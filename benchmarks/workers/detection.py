"""Times the detector on real first bytes, and prints microseconds as JSON: medians over repeated loops."""

from __future__ import annotations

import json
import ssl
import statistics
import timeit

import h2.config
import h2.connection

from datapath.protocols.detect import Detector

_REPEATS = 9
_SECONDS_PER_REPEAT = 0.1


def client_hello(name: str) -> bytes:
    """The ClientHello of this Python's OpenSSL."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake cannot end without a server")


def http2_opening(name: str) -> bytes:
    """Preface, SETTINGS and the HEADERS of a first request."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", name), (":path", "/"), ("user-agent", "curl/8.5")]
    connection.send_headers(1, fields, end_stream=True)
    return connection.data_to_send()


def microseconds(data: bytes) -> float:
    """What one detection takes: the median of the repeats' means."""

    def detect() -> None:
        if Detector().feed(data) is None:
            raise AssertionError("these bytes are enough to decide")

    timer = timeit.Timer(detect)
    count, took = timer.autorange()
    loops = max(1, int(count * _SECONDS_PER_REPEAT / took))
    return statistics.median(timer.repeat(_REPEATS, loops)) / loops * 1e6


def main() -> None:
    """Measure and print."""
    name = "web.example.com"
    head = f"GET /s HTTP/1.1\r\nHost: {name}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n".encode()
    inputs = {
        "client_hello_us": client_hello(name),
        "http1_us": head,
        "http2_us": http2_opening(name),
        "opaque_us": b"\x00" * 64,
    }
    print(json.dumps({key: microseconds(data) for key, data in inputs.items()}))  # noqa: T201 (the result)


if __name__ == "__main__":
    main()
