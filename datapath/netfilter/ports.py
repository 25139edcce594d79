"""Excludes listener ports from the ephemeral range.

The kernel gives outgoing sockets any port of net.ipv4.ip_local_port_range (which IPv6 uses too). If a listener's port
is in that range, a connection may occupy it when the listener binds, most likely after a restart. Ports in
net.ipv4.ip_local_reserved_ports are not assigned automatically, but can be bound explicitly
(Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datapath.netfilter.rules import merge_ports
from traffic_policy.policy import PortRange

_SYSCTL: Final = Path("/proc/sys/net/ipv4")
_RANGE: Final = "ip_local_port_range"
_RESERVED: Final = "ip_local_reserved_ports"


@dataclass(frozen=True, slots=True)
class PortReservation:
    """Ports that were added to the list, for :func:`release`; ``warning`` is set when that was not possible."""

    added: tuple[int, ...] = ()
    warning: str | None = None


def reserve(ports: Iterable[int], sysctl: Path = _SYSCTL) -> PortReservation:
    """Reserve those of ``ports`` that lie in the ephemeral range and are not reserved yet.

    Missing privileges are no error: the proxy works without, and a container's /proc/sys is often read-only. The
    warning names the setting to make outside the container.
    """
    wanted = sorted(set(ports))
    try:
        first, last = (int(word) for word in (sysctl / _RANGE).read_text().split())
        reserved = _parse((sysctl / _RESERVED).read_text())
        missing = tuple(p for p in wanted if first <= p <= last and not any(p in r for r in reserved))
        if missing:
            _write(sysctl, merge_ports([*reserved, *(PortRange(p, p) for p in missing)]))
    except OSError as error:
        return PortReservation(warning=_warning(wanted, error))
    return PortReservation(missing)


def release(reservation: PortReservation, sysctl: Path = _SYSCTL) -> None:
    """Remove from the list what :func:`reserve` added, and nothing else. Idempotent, never raises."""
    if not reservation.added:
        return
    try:
        kept: list[PortRange] = []
        for item in _parse((sysctl / _RESERVED).read_text()):
            kept += _without(item, reservation.added)
        _write(sysctl, merge_ports(kept))
    except OSError:
        # It was writable before: /proc/sys is read-only now, or the namespace is being destroyed with the setting.
        return


def _warning(ports: Iterable[int], error: OSError) -> str:
    listed = ",".join(str(p) for p in ports)
    return (
        f"The listener's port may be taken by an outgoing connection: net.ipv4.{_RESERVED} cannot be set "
        f"({error.strerror}). Set it from outside: net.ipv4.{_RESERVED}={listed} (in Kubernetes under "
        "securityContext.sysctls), or choose ports outside net.ipv4.ip_local_port_range."
    )


def _parse(text: str) -> tuple[PortRange, ...]:
    """The kernel's list: ``8080,9148-9150``, or an empty line."""
    return tuple(PortRange.parse(item) for item in text.strip().split(",") if item)


def _without(item: PortRange, ports: tuple[int, ...]) -> list[PortRange]:
    parts = []
    first = item.first
    for port in sorted(p for p in ports if p in item):
        if first < port:
            parts.append(PortRange(first, port - 1))
        first = port + 1
    if first <= item.last:
        parts.append(PortRange(first, item.last))
    return parts


def _write(sysctl: Path, ports: tuple[PortRange, ...]) -> None:
    # An empty list is written as an empty line: zero bytes would be no write.
    (sysctl / _RESERVED).write_text(",".join(str(p) for p in ports) + "\n")
