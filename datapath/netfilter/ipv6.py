"""Whether this network namespace has IPv6."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CONF: Final = Path("/proc/sys/net/ipv6/conf")
"""Shows the namespace of the thread that reads it, unlike /proc/net, which shows the main thread's."""
_TEMPLATES: Final = ("all", "default")
"""Not interfaces; "default" is what the next one starts with."""


def ipv6_missing(conf: Path = _CONF) -> str | None:
    """Why IPv6 cannot be used here, or None when some interface has it.

    A kernel without IPv6 has no such settings; a Pod with IPv4 only has ``disable_ipv6`` set on every interface.
    """
    if not conf.is_dir():
        return "this kernel has no IPv6"
    interfaces = [entry for entry in conf.iterdir() if entry.name not in _TEMPLATES]
    if interfaces and all(_disabled(entry) for entry in interfaces):
        return "net.ipv6.conf.*.disable_ipv6 is 1 on every interface"
    return None


def _disabled(interface: Path) -> bool:
    try:
        return (interface / "disable_ipv6").read_text().strip() == "1"
    except OSError:
        # The interface was removed between listing and reading.
        return True
