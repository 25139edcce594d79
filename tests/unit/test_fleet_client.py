"""The client of a control plane, where connections end while it thinks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Thread

import pytest

from podlane.fleet import client
from podlane.fleet.client import FleetClient, FleetError
from podlane.fleet.contexts import FleetContext

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def forgetful() -> Iterator[str]:
    """Answers once on each connection, and closes it without a word, as servers do after a while."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(65536):
                        connection.sendall(ANSWER)

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_connection_that_was_idle_is_not_used_again(forgetful: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = FleetClient(FleetContext(forgetful, "t", "default"))
    assert asking.ask("GET", "whoami") == {}
    with pytest.raises(FleetError, match="does not answer"):
        asking.ask("GET", "whoami")
    monkeypatch.setattr(client, "_IDLE", -1.0)
    assert [asking.ask("GET", "whoami") for _ in range(3)] == [{}, {}, {}]
