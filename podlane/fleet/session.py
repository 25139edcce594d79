"""The client that a verb's ``--context`` and ``--tenant`` mean."""

from __future__ import annotations

from dataclasses import replace

from podlane.fleet.client import FleetClient
from podlane.fleet.contexts import load_contexts


def client_for(context: str | None, tenant: str | None) -> FleetClient:
    """Raises :class:`~traffic_policy.errors.ConfigError`."""
    found = load_contexts().find(context)
    return FleetClient(replace(found, tenant=tenant) if tenant else found)
