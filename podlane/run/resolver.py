"""Chooses a resolv.conf that works in a network namespace of its own.

A resolver on a loopback address (systemd-resolved's 127.0.0.53, dnsmasq's 127.0.0.1) cannot be reached there, since
every network namespace has its own loopback. systemd-resolved writes its upstream servers into another file
(systemd-resolved.service(8)), which can be used instead.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESOLV_CONF: Final = Path("/etc/resolv.conf")
SYSTEMD_UPLINK: Final = Path("/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True, slots=True)
class Resolver:
    """``replacement`` is to be mounted over /etc/resolv.conf; ``warning`` is the reason why names will not resolve."""

    replacement: Path | None = None
    warning: str | None = None


def choose_resolver(resolv_conf: Path = RESOLV_CONF, uplink: Path = SYSTEMD_UPLINK) -> Resolver:
    """Read the host's files and choose."""
    # Without a file or a server, libc uses 127.0.0.1 (resolv.conf(5)).
    servers = _nameservers(resolv_conf) or ["127.0.0.1"]
    if any(not _is_loopback(server) for server in servers):
        return Resolver()
    if resolv_conf.exists() and any(not _is_loopback(server) for server in _nameservers(uplink)):
        return Resolver(replacement=uplink)
    return Resolver(
        warning=f"{resolv_conf} names only {', '.join(servers)}, which a namespace of its own cannot reach: host names "
        "will not resolve there. Name a server of your network in that file, or use addresses."
    )


def _nameservers(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
