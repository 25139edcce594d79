"""A TLS client that names one server in its first ClientHello, and another one in the second.

usage: hello_retry.py ADDRESS PORT FIRST-NAME SECOND-NAME WAY SECONDS

The server must ask for a second hello (HelloRetryRequest, RFC 8446 4.1.4): one that does not take the group of the
first hello's key share, X25519. OpenSSL serves the name of the second hello. Needs no capability. WAY: "up" uploads for SECONDS; "down" asks the server to
send (a line "down"), and prints the Mbit/s that came.
"""

from __future__ import annotations

import ctypes
import socket
import ssl
import sys
import time
from typing import Any

SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_HOST_NAME = 55, 0
SSL_OF_OBJECT = 3 * ctypes.sizeof(ctypes.c_void_p)
"""Where CPython's _ssl._SSLSocket has its SSL *: behind the object's head and a reference."""


def rename(tls: ssl.SSLObject, name: str) -> None:
    """What openssl's SSL_set_tlsext_host_name() does, in the middle of a handshake."""
    module: Any = sys.modules["_ssl"]
    library = ctypes.CDLL(module.__file__)
    library.SSL_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    pointer = ctypes.c_void_p.from_address(id(inner) + SSL_OF_OBJECT)
    assert library.SSL_ctrl(pointer, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_HOST_NAME, name.encode()) == 1


def main() -> None:
    address, port, first, second, way, seconds = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=first)
    with socket.create_connection((address, int(port)), 10) as sock:
        for name in (second, None):
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
            if name is not None:
                rename(tls, name)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        until = time.monotonic() + float(seconds)
        if way == "down":
            tls.write(b"down\n")
            sock.sendall(outgoing.read())
            got = 0
            while time.monotonic() < until:
                got += len(sock.recv(65536))
            print(got * 8 / float(seconds) / 1e6)
            return
        while time.monotonic() < until:
            tls.write(bytes(16384))
            sock.sendall(outgoing.read())


if __name__ == "__main__":
    main()
