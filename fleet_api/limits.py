"""What both sides hold each other to."""

from __future__ import annotations

from typing import Final

SERVICE: Final = "podlane.agent.v1.Agents"
ENROL: Final = f"/{SERVICE}/Enrol"
CONNECT: Final = f"/{SERVICE}/Connect"
SERVER_NAME: Final = "control-plane.podlane.internal"
"""A name that the certificate of each agents' port has: who trusts our roots alone need not care for the address.
``.internal`` is reserved for private use (ICANN, 2024)."""
MAX_TO_AGENT: Final = 4 << 20
"""Bytes of one message to an agent: all policies of a tenant."""
MAX_FROM_AGENT: Final = 256 << 10
"""Bytes of one message from an agent."""
MAX_NODE_LABELS: Final = 64
"""Labels of its node that an agent says."""
MAX_FAILURES: Final = 100
"""Workloads that an agent names in one message."""
MAX_NAMES: Final = 256
"""Names that connections had, in one message."""
MAX_MATCHES: Final = 1024
"""Matches of which it says in one message how many connections they have taken."""
REPORT_INTERVAL: Final = 1.0
"""Seconds between two reports."""
KEEPALIVE: Final = 20.0
"""Seconds without a word after which the agent sends a PING of HTTP/2."""
SILENCE: Final = 60.0
"""Seconds without a word after which either side takes the other for lost."""
