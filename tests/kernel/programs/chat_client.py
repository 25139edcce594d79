"""A WebSocket client on a connection that has carried a request before: ADDRESS FIRST_HOST HOST SIZE.

Asks ``GET /who`` of the first host, upgrades the same connection to HOST's /chat, and sends messages of SIZE bytes in
all, of many sizes, as text and as bytes. Prints "same" when each has come back as it was.
"""

from __future__ import annotations

import random
import socket
import sys

from websockets.sync.client import connect

address, first, host, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
sock = socket.create_connection((address, 80), 20)
sock.sendall(f"GET /who HTTP/1.1\r\nHost: {first}\r\n\r\n".encode())
answer = b""
while not answer.endswith(b"\n"):
    answer += sock.recv(65536)
assert f"|{first}|HTTP/1.1|".encode() in answer, answer
source = random.Random(6)
left = size
with connect(f"ws://{host}/chat", sock=sock, max_size=None, compression=None, open_timeout=20, proxy=None) as chat:
    assert [chat.recv(20) for _ in range(3)] == [f"greeting {number}" for number in range(3)]
    chat.ping().wait(20)
    while left > 0:
        # Lengths of all three forms of RFC 6455, section 5.2.
        length = source.choice([1, 125, 126, 60_000, 70_000])
        message = source.randbytes(length) if source.random() < 0.5 else "ä" * length
        chat.send(message)
        assert chat.recv(20) == message
        left -= length
    chat.send("bye")
    for message in chat:
        raise AssertionError(message)
print("same")
