"""Try a connection: its lane, and the match that decided."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter
from pydantic import BaseModel, Field

from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.connection_trial import TriedConnection, TriedResult, try_connection
from control_plane.http.context import TheCaller
from control_plane.http.documents import Asked
from control_plane.http.problems import responses
from traffic_policy.describe import traffic_words
from traffic_policy.policy import Bound, TransportProtocol
from traffic_policy.policy_file import policy_from_document

router = APIRouter(prefix="/v1", responses=responses())

_Text = Annotated[str, Field(max_length=300)]


class ConnectionWish(Asked):
    """What is known of a connection. Without an ``address`` it goes to none of a network that policies name."""

    port: int = Field(ge=0, le=65535)
    protocol: TransportProtocol = TransportProtocol.TCP
    sni: _Text = ""
    host: _Text = ""
    alpn: list[_Text] = Field([], max_length=16)
    address: _Text = ""
    source: _Text = ""
    direction: Bound = Bound.OUTBOUND

    def tried(self) -> TriedConnection:
        return TriedConnection(
            self.port, self.protocol, self.sni, self.host, tuple(self.alpn), self.address, self.source, self.direction
        )


class ConnectionTrialWish(Asked):
    document: dict[str, Any]
    connection: ConnectionWish


class DecisionDocument(BaseModel):
    """``lane`` and ``match``: indices of the class and of its match that decided, null: the default class. ``held``:
    of that match, the values that held; ``words``: the same in words.

    ``reads_names``: its first bytes could decide, and are read. ``silenced``: they would have decided, but on this port
    the server speaks first, so that names do not count. ``refused``: the connection is refused (QUIC that is blocked).
    """

    name: str
    lane: int | None
    match: int | None
    held: dict[str, list[str]]
    words: str
    reads_names: bool
    silenced: bool
    refused: bool

    @classmethod
    def describe(cls, result: TriedResult) -> Self:
        decision = result.decision
        lane, match = decision.at or (None, None)
        held = decision.held
        values = {} if held is None else {key: getattr(held, key) for key in type(held).model_fields}
        return cls(
            name=decision.class_name,
            lane=lane,
            match=match,
            held={
                key: [str(each) for each in value]
                for key, value in values.items()
                if isinstance(value, tuple) and value
            },
            words="" if held is None else traffic_words(held),
            reads_names=result.reads_names,
            silenced=decision.silenced,
            refused=decision.refused,
        )


@router.post("/try-connection", responses=responses(413))
def try_one(caller: TheCaller, wish: ConnectionTrialWish) -> DecisionDocument:  # noqa: ARG001 - only who has a token may ask
    """The lane of one connection under a policy, by the table that agents route with. Nothing is stored."""
    policy = policy_from_document(CheckedPolicy.from_document(wish.document).document)
    return DecisionDocument.describe(try_connection(policy, wish.connection.tried()))
