"""What viewers send: docs/reference/live.md has the grammar. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from control_plane.domain.errors import InvalidError
from control_plane.fleet.figures import SECONDS

PROTOCOL: Final = "podlane.live.v1"
"""The subprotocol (RFC 6455, section 1.9)."""
LONGEST: Final = 16_384
"""Bytes of a message from a viewer."""
MOST_SUBSCRIPTIONS: Final = 32
"""Of one connection."""
MOST_ROWS: Final = 500
MOST_COLUMNS: Final = 256
"""Lanes times fields of a series."""
_MOST_ID: Final = 2**31 - 1
_MOST_OFFSET: Final = 10_000_000
_MOST_POSITION: Final = 2**53 - 1

_Name = Annotated[str, Field(max_length=253)]


class Topic(StrEnum):
    """What can be looked at."""

    AGENTS = "agents"
    CLUSTERS = "clusters"
    LANES = "lanes"
    POLICIES = "policies"
    ROLLOUTS = "rollouts"
    ALERTS = "alerts"
    SERIES = "series"
    WORKLOADS = "workloads"
    HEAT = "heat"
    EVENTS = "events"


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LiveScope(_Sent):
    """What is looked at of a tenant; empty: all."""

    cluster: _Name = ""
    node: _Name = ""
    namespace: _Name = ""
    policy: _Name = ""
    lane: _Name = ""
    direction: Literal["", "egress", "ingress"] = ""


class LiveFilter(_Sent):
    """Which rows. ``text`` is in their name, ``state`` is theirs."""

    text: _Name = ""
    state: Annotated[str, Field(max_length=20)] = ""


class Login(_Sent):
    """The first message of who could not send a header, and has no session."""

    type: Literal["login"]
    token: Annotated[str, Field(max_length=8192)]


class Subscribe(_Sent):
    """Look at something; with an ``id`` that is in use: at something else instead.

    ``sort``: empty for the topic's own order; with ``-`` before it backwards. ``after``: the ``cursor`` of the last
    frame that was seen of events or a series; null: from now on, and a series begins ``seconds`` ago.
    """

    type: Literal["subscribe"]
    id: Annotated[int, Field(ge=0, le=_MOST_ID)]
    tenant: Annotated[str, Field(max_length=63)]
    topic: Topic
    scope: LiveScope = LiveScope()
    filter: LiveFilter = LiveFilter()
    sort: Annotated[str, Field(max_length=30)] = ""
    offset: Annotated[int, Field(ge=0, le=_MOST_OFFSET)] = 0
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50
    after: Annotated[int | None, Field(ge=0, le=_MOST_POSITION)] = None
    seconds: Annotated[int, Field(ge=1, le=SECONDS)] = 60
    fields: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)] = ("bytes",)


class Unsubscribe(_Sent):
    """Look at it no longer."""

    type: Literal["unsubscribe"]
    id: Annotated[int, Field(ge=0, le=_MOST_ID)]


Message = Login | Subscribe | Unsubscribe
_MESSAGES: Final[TypeAdapter[Message]] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def read_message(text: str) -> Message:
    """Raises :class:`InvalidError`, with what is wrong and where."""
    try:
        return _MESSAGES.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        raise InvalidError(
            f"The message is wrong{f' at {place}' if place else ''}: {first['msg'][:200]}.",
            'Send what the reference "Live" says, as {"type": "subscribe", "id": 1, "tenant": "default", '
            '"topic": "agents"}.',
        ) from None
