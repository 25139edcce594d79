"""Settings of the sidecar that several programs share: ports, environment variables, and enumerations. Pure.

The sidecar reads these settings, the injector writes them, annotations name them, and the command line offers them.
Only the standard library is imported, for the sake of ``podlane --help``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

OUTBOUND_PORT: Final = 15101
"""Where captured connections arrive; clear of the ports of Istio, Linkerd and Consul (15000-15090, 4140-4191)."""
INBOUND_PORT: Final = 15106
"""Where those arrive that others opened."""
ADMIN_PORT: Final = 15109
AGENT_PORT: Final = 15110
"""The admin port of the node agent, which may share a network namespace with a sidecar (a Pod's on the host)."""
ADMIN_ADDRESS: Final = "127.0.0.1"
VARIABLE_PREFIX: Final = "PODLANE_"
_SERVICE_VARIABLE: Final = re.compile(
    r"(?P<service>[A-Z0-9_]+?)_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
"""What a kubelet puts in the variables by which it tells containers of the Services in their namespace: a Service named
``podlane-admin`` sets ``PODLANE_ADMIN_PORT`` to a URL (``FromServices`` of k8s.io/kubernetes,
pkg/kubelet/envvars/envvars.go). A Pod goes without them with ``enableServiceLinks: false``; variables that a
container's ``env`` has win over them."""


def variable(setting: str) -> str:
    """The environment variable of one of the sidecar's settings: ``PODLANE_ADMIN_PORT`` for ``admin_port``."""
    return f"{VARIABLE_PREFIX}{setting.upper()}"


def service_behind(variable: str) -> str | None:
    """The name of a Service that would set this variable, as in ``podlane-admin``; None when none can."""
    match = _SERVICE_VARIABLE.fullmatch(variable)
    return match["service"].lower().replace("_", "-") if match else None


def service_link(variable: str, value: object) -> str | None:
    """A sentence on a variable that has a Service's URL instead of a setting, with the remedy; else None."""
    service = service_behind(variable)
    if service is None or not isinstance(value, str) or not _SERVICE_URL.fullmatch(value):
        return None
    return (
        f"{value!r} is the address of the Service {service}, which Kubernetes puts in this variable. "
        "Set enableServiceLinks: false in the Pod's spec, or this variable to what it should be."
    )


class Datapath(StrEnum):
    """How a connection gets its class by what its first bytes say. docs/explanation/datapaths.md compares them."""

    RELAY = "relay"
    """The proxy accepts the connection, reads its first bytes, and relays it."""
    STEP_ASIDE = "step-aside"
    """The kernel shows its first packets to a classifier, and the connection goes its own way."""
    EBPF = "ebpf"
    """Programs in the kernel read its first packet, and nothing goes through user space."""


class AgentDatapath(StrEnum):
    """How the node agent sees first bytes, where a workload does not say it."""

    AUTO = "auto"
    """By programs in the kernel for each workload to which that takes nothing away, else by stepping aside."""
    EBPF = "ebpf"
    """By programs in the kernel wherever they can be; names in QUIC are not read then."""
    STEP_ASIDE = "step-aside"
    """By stepping aside."""


class Enforce(StrEnum):
    """At which end of a Pod's link the node agent puts its lanes. docs/explanation/agent.md compares them."""

    POD = "pod"
    """The Pod's own interface."""
    HOST = "host"
    """The node's end of the Pod's veth pair, wherever there is one that takes them."""


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


class IptablesSetting(StrEnum):
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
