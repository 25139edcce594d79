"""What gRPC says in the fields of HTTP/2.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.gateway.fields import EMPTY_TABLE, encode_fields
from control_plane.gateway.rpc import GrpcStatus, RpcError

_CONTENT_TYPE: Final = re.compile(rb"application/grpc(\+proto)?(;.*)?")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_METHOD: Final = re.compile(r"/[!-~]+/[!-~]+")
_MAX_METHOD: Final = 200
_PERCENT: Final = re.compile(rb"[^ -$&-~]")
_MAX_MESSAGE: Final = 2000
"""Bytes of ``grpc-message``: clients take 8 KiB of fields."""
_HEAD: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))
ANSWER: Final = EMPTY_TABLE + encode_fields(_HEAD)
"""The head of an answer with messages."""


class NotGrpcError(Exception):
    """The request is for another kind of server. ``block``: the whole answer, with a status of HTTP."""

    def __init__(self, status: int) -> None:
        self.block = EMPTY_TABLE + encode_fields([(b":status", b"%d" % status)])
        super().__init__(f"status {status}")


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    """``timeout`` is how many seconds the client waits."""

    method: str
    timeout: float | None


def read_request(fields: Mapping[bytes, bytes]) -> GrpcRequest:
    """What a request's fields ask for. Raises :class:`NotGrpcError` and :class:`RpcError`."""
    if fields[b":method"] != b"POST":
        raise NotGrpcError(405)
    if not _CONTENT_TYPE.fullmatch(fields.get(b"content-type", b"")):
        raise NotGrpcError(415)
    if fields.get(b"te") != b"trailers":
        raise RpcError(
            GrpcStatus.INTERNAL, "te: trailers is missing: something between agent and gateway does not know gRPC."
        )
    if fields.get(b"grpc-encoding", b"identity") != b"identity":
        raise RpcError(GrpcStatus.UNIMPLEMENTED, "Messages must not be compressed.")
    method = fields[b":path"].decode("latin-1")
    if len(method) > _MAX_METHOD or not _METHOD.fullmatch(method):
        raise RpcError(GrpcStatus.UNIMPLEMENTED, "The path is no method of gRPC.")
    timeout = fields.get(b"grpc-timeout")
    return GrpcRequest(method, None if timeout is None else _seconds(timeout))


def _seconds(timeout: bytes) -> float:
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise RpcError(GrpcStatus.INVALID_ARGUMENT, "grpc-timeout is not as 10S.")
    return int(found[1]) * _UNITS[found[2]]


def trailers(status: GrpcStatus, message: str = "") -> bytes:
    """The end of an answer."""
    return encode_fields(_end(status, message))


def refusal(status: GrpcStatus, message: str) -> bytes:
    """A whole answer without a message ("Trailers-Only")."""
    identity = [(b"grpc-accept-encoding", b"identity")] if status is GrpcStatus.UNIMPLEMENTED else []
    return EMPTY_TABLE + encode_fields([*_HEAD, *identity, *_end(status, message)])


def _end(status: GrpcStatus, message: str) -> list[tuple[bytes, bytes]]:
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", _percent_encoded(message)))
    return fields


def _percent_encoded(message: str) -> bytes:
    text = message.encode("utf-8", "replace")[:_MAX_MESSAGE]
    return _PERCENT.sub(lambda found: b"%%%02X" % found[0][0], text)
