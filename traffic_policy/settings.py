"""What several programs must agree on about the sidecar: its ports, its variables, and the values of its choices. Pure.

The sidecar reads these settings, the injector writes them, annotations name them, and the command line offers them.
Only the standard library is imported, for the sake of ``podlane --help``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OUTBOUND_PORT: Final = 15101
"""Where captured connections arrive; clear of the ports of Istio, Linkerd and Consul (15000-15090, 4140-4191)."""
INBOUND_PORT: Final = 15106
"""Where those arrive that others opened."""
ADMIN_PORT: Final = 15109
ADMIN_ADDRESS: Final = "127.0.0.1"
VARIABLE_PREFIX: Final = "PODLANE_"


def variable(setting: str) -> str:
    """The environment variable of one of the sidecar's settings: ``PODLANE_ADMIN_PORT`` for ``admin_port``."""
    return f"{VARIABLE_PREFIX}{setting.upper()}"


class Datapath(StrEnum):
    """How a connection gets its class by what its first bytes say. docs/explanation/datapaths.md compares the two."""

    RELAY = "relay"
    """The proxy accepts the connection, reads its first bytes, and relays it."""
    STEP_ASIDE = "step-aside"
    """The kernel shows its first packets to a classifier, and the connection goes its own way."""


class OnFailure(StrEnum):
    """What becomes of new connections that the proxy would relay while there is no proxy.

    docs/reference/operations.md has the table of faults.
    """

    OPEN = "open"
    """They go direct, in the class of their port."""
    CLOSED = "closed"
    """They are refused."""


class Mesh(StrEnum):
    """What the setting says of the Pod's mesh."""

    AUTO = "auto"
    """Whichever the rules in the network namespace tell of."""
    ISTIO = "istio"
    LINKERD = "linkerd"
    NONE = "none"


class Way(StrEnum):
    """How mangle rules are to be installed; ``auto``: by the programs where they are, else by the library."""

    AUTO = "auto"
    RESTORE = "restore"
    PYTHON = "python"


class LogFormat(StrEnum):
    """How log lines are written."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """From which severity on log lines are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AccessLogMode(StrEnum):
    """What the access log has."""

    OFF = "off"
    CONNECTIONS = "connections"
