"""The two ways a connection can get its class by what its first bytes say."""

from __future__ import annotations

from enum import StrEnum


class Datapath(StrEnum):
    """docs/explanation/datapaths.md compares them."""

    RELAY = "relay"
    """The proxy accepts the connection, reads its first bytes, and relays it."""
    STEP_ASIDE = "step-aside"
    """The kernel shows its first packets to a classifier, and the connection goes its own way."""
