"""How agents and a control plane name a match to each other: by what it asks for, wherever it stands. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from traffic_policy.policy import Match

MATCH_KEY_BYTES: Final = 8


def match_key(match: Match) -> bytes:
    """The same for matches that ask for the same, as they are written; of different ones it differs."""
    return document_key(match.model_dump(mode="json", exclude_defaults=True))


def document_key(match: Mapping[str, Any]) -> bytes:
    """:func:`match_key` of a match in the normal form (:meth:`~traffic_policy.policy.TrafficPolicy.to_document`)."""
    text = json.dumps(match, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:MATCH_KEY_BYTES]
