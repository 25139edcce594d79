"""A gRPC client: ADDRESS PORT AUTHORITY SIZE. Sends about SIZE bytes, in single calls and in a stream.

Prints "same" when every message has come back as it was.
"""

from __future__ import annotations

import random
import sys

import grpc

address, port, authority, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
source = random.Random(7)
options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
with grpc.insecure_channel(f"{address}:{port}", options=options) as channel:
    one = channel.unary_unary("/test.Echo/One")
    for length in (0, 1, 1000, size // 2):
        message = source.randbytes(length)
        assert one(message, timeout=20) == message
    messages = [source.randbytes(size // 100) for _ in range(50)]
    assert list(channel.stream_stream("/test.Echo/Many")(iter(messages), timeout=20)) == messages
print("same")
