"""Well-known services by name: ``ssh``, ``https``, ``domain`` (or ``dns``) -> port and protocols.

The names are IANA's (RFC 6335, the Service Name and Transport Protocol Port Number Registry), with the aliases that
people use. The list is part of the package, since containers often have no /etc/services, and a policy must mean the
same everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from traffic_policy.ports import TransportProtocol


@dataclass(frozen=True, slots=True)
class Service:
    """A service's registered name, its port and the protocols it uses there."""

    name: str
    port: int
    protocols: tuple[TransportProtocol, ...]


def service_named(name: object) -> Service:
    """The service with this name or alias, in any letter case; raises ValueError with a remedy when there is none."""
    if isinstance(name, Service):
        return name
    known = services()
    key = name.strip().lower() if isinstance(name, str) else ""
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Write a name such as ssh, https or dns, or give its number as port."
    raise ValueError(f"{name!r} is not a service that is known here. {hint}")


@cache
def services() -> Mapping[str, Service]:
    """Every service by its name and by its aliases."""
    found: dict[str, Service] = {}
    text = resources.files("traffic_policy").joinpath("services.tsv").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, port, protocols, *aliases = line.split("\t")
        service = Service(name, int(port), tuple(TransportProtocol(p) for p in protocols.split(",")))
        found.update(dict.fromkeys((name, *aliases), service))
    return found
