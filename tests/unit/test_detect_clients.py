"""What real clients send first: curl and openssl, caught on a loopback listener that never answers."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest
from first_bytes import detect_every_way, http1, http2, tls

from datapath.protocols.detect import Detection, Detector

CURL = ("curl", "--silent", "--insecure", "--noproxy", "", "--max-time", "20")
OPENSSL = ("openssl", "s_client", "-connect", "127.0.0.1:PORT")
TO = ("--resolve", "Api.Example.com:PORT:127.0.0.1")


def first_flight(command: tuple[str, ...]) -> bytes:
    """All that the client sends until a detector has seen enough; PORT in its arguments is the listener's."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        port = str(listener.getsockname()[1])
        client = subprocess.Popen(
            [argument.replace("PORT", port) for argument in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
        )
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                detector, seen = Detector(), b""
                while True:
                    data = connection.recv(65536)
                    assert data, f"{command[0]} closed after {seen!r}"
                    seen += data
                    if detector.feed(data) is not None:
                        return seen
        finally:
            client.kill()
            client.wait()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param(
            (*CURL, *TO, "https://Api.Example.com:PORT/"), tls("api.example.com", ("h2", "http/1.1")), id="curl, TLS"
        ),
        pytest.param(
            (*CURL, *TO, "--tls-max", "1.2", "--no-alpn", "https://Api.Example.com:PORT/"),
            tls("api.example.com"),
            id="curl, TLS 1.2 without ALPN",
        ),
        pytest.param((*CURL, "https://127.0.0.1:PORT/"), tls(None, ("h2", "http/1.1")), id="curl, TLS by address"),
        pytest.param((*CURL, *TO, "http://Api.Example.com:PORT/x"), http1("api.example.com"), id="curl, HTTP/1.1"),
        pytest.param(
            (*CURL, *TO, "--http1.0", "http://Api.Example.com:PORT/x"), http1("api.example.com"), id="curl, HTTP/1.0"
        ),
        pytest.param((*CURL, "http://127.0.0.1:PORT/"), http1("127.0.0.1"), id="curl, HTTP by address"),
        pytest.param(
            (*CURL, *TO, "--http2", "http://Api.Example.com:PORT/x"), http1("api.example.com"), id="curl, h2c upgrade"
        ),
        pytest.param(
            (*CURL, *TO, "--http2-prior-knowledge", "http://Api.Example.com:PORT/x"),
            http2("api.example.com"),
            id="curl, HTTP/2",
        ),
        pytest.param(
            (*CURL, *TO, "--http2-prior-knowledge", "--data", "a=b", "http://Api.Example.com:PORT/x"),
            http2("api.example.com"),
            id="curl, HTTP/2 POST",
        ),
        pytest.param(
            (*CURL, "--proxy", "http://127.0.0.1:PORT", "http://Api.Example.com:8080/"),
            http1("api.example.com"),
            id="curl, by a proxy",
        ),
        pytest.param(
            (*CURL, "--proxy", "http://127.0.0.1:PORT", "https://Api.Example.com/"),
            http1("api.example.com"),
            id="curl, CONNECT",
        ),
        pytest.param(
            (*OPENSSL, "-servername", "api.example.com", "-alpn", "h2,spdy/3"),
            tls("api.example.com", ("h2", "spdy/3")),
            id="openssl",
        ),
        pytest.param((*OPENSSL, "-noservername"), tls(), id="openssl, no name"),
        pytest.param(
            (*OPENSSL, "-servername", "api.example.com", "-tls1", "-cipher", "DEFAULT@SECLEVEL=0"),
            tls("api.example.com"),
            id="openssl, TLS 1.0",
        ),
    ],
)
def test_first_flight_of_a_real_client(command: tuple[str, ...], expected: Detection) -> None:
    assert detect_every_way(first_flight(command)) == expected
