"""Uploads that never end, and the sink that counts them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meter import Meter


def receiving(meter: Meter) -> Callable[[socket.socket], None]:
    """A sink that counts; for :func:`lab.serving`."""

    def serve(connection: socket.socket) -> None:
        while data := connection.recv(1 << 18):
            meter.count(len(data))

    return serve


def http_upload(host: str) -> bytes:
    """The head of an upload that has no end worth speaking of."""
    return f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000000\r\n\r\n".encode()


def tls_hello(name: str) -> bytes:
    """A ClientHello with this server name, as OpenSSL writes it."""
    context = ssl.create_default_context()
    sent = ssl.MemoryBIO()
    hello = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake cannot end without a server")


@contextmanager
def pushing(connection: socket.socket, beginning: bytes) -> Iterator[None]:
    """Send ``beginning`` and then without end, until the block is left; the connection is closed with it."""
    over = threading.Event()

    def send() -> None:
        with connection:
            connection.sendall(beginning)
            connection.settimeout(0.2)
            block = bytes(1 << 16)
            while not over.is_set():
                try:
                    connection.send(block)
                except TimeoutError:
                    continue
                except OSError:
                    return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
