"""A gRPC server: PORT. ``/test.Echo/One`` gives a message back, ``/test.Echo/Many`` each message of a stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc


def one(message: bytes, _context: Any) -> bytes:
    """Unary."""
    return message


def many(messages: Iterator[bytes], _context: Any) -> Iterator[bytes]:
    """Both directions at once."""
    yield from messages


server = grpc.server(futures.ThreadPoolExecutor(4))
handlers = {"One": grpc.unary_unary_rpc_method_handler(one), "Many": grpc.stream_stream_rpc_method_handler(many)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
server.start()
server.wait_for_termination()
