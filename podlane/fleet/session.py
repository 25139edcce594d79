"""The client that a verb's ``--context`` and ``--tenant`` mean."""

from __future__ import annotations

from dataclasses import replace

from podlane.fleet.client import FleetClient
from podlane.fleet.contexts import FleetContext, load_contexts, save_contexts


def client_for(context: str | None, tenant: str | None) -> FleetClient:
    """Raises :class:`~traffic_policy.errors.ConfigError`."""
    contexts = load_contexts()
    found = contexts.find(context)

    def keep(renewed: FleetContext) -> None:
        latest = load_contexts()
        latest.contexts[context or contexts.current] = replace(renewed, tenant=found.tenant)
        save_contexts(latest)

    return FleetClient(replace(found, tenant=tenant) if tenant else found, keep)
