"""What the injector's administrator decides about the containers that Pods get; annotations win where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from injector.errors import DefaultsError
from traffic_policy.pod.errors import QuantityError
from traffic_policy.pod.quantities import Quantity

ADMIN_PORT: Final = 15109
"""The sidecar's own default (sidecar.config.ADMIN_PORT, which this package may not import; a test compares them)."""
OUTBOUND_PORT: Final = 15101
"""Likewise: where captured connections arrive."""
INBOUND_PORT: Final = 15106
"""Likewise: where captured connections of clients arrive."""
_PORTS: Final = {
    "PODLANE_ADMIN_PORT": str(ADMIN_PORT),
    "PODLANE_INBOUND_PORT": str(INBOUND_PORT),
    "PODLANE_OUTBOUND_PORT": str(OUTBOUND_PORT),
}
"""Always told, since the kubelet puts the address of a Service podlane-admin in PODLANE_ADMIN_PORT, and so on
(:mod:`traffic_policy.pod.service_links`)."""
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
"""Values of imagePullPolicy (https://kubernetes.io/docs/concepts/containers/images/)."""
_USUAL: Final = {"PODLANE_ADMIN_ADDRESS": "127.0.0.1", "PODLANE_LOG_FORMAT": "json", **_PORTS}
"""What the sidecar is told unless the administrator's environment says otherwise."""
_GIVEN: Final = ("PODLANE_POLICY", "PODLANE_ANNOTATIONS", "PODLANE_SHARED_POLICY")
"""Settings that say where the policy comes from, which injection decides."""


@cache
def product_version() -> str:
    """Podlane's version, as installed; ``0`` where it runs from its source only."""
    try:
        return version("podlane")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True, slots=True)
class InjectionDefaults:
    """Settings of the injected containers. Raises :class:`DefaultsError` on values that the API server would refuse.

    ``image`` is the sidecar's, ``None`` for the policy or a resource leaves it out. ``bpf``: sidecars get CAP_BPF if
    their policy has a use for it. ``environment`` has further ``PODLANE_*`` variables for the sidecar; the last of a
    name counts.
    """

    image: str = ""
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    cpu_request: str | None = "20m"
    cpu_limit: str | None = None
    memory_request: str | None = "80Mi"
    memory_limit: str | None = "256Mi"
    bpf: bool = True
    environment: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.image:
            object.__setattr__(self, "image", f"podlane:{product_version()}")
        if self.image_pull_policy not in (None, *PULL_POLICIES):
            raise DefaultsError(
                f"{self.image_pull_policy!r} is not an imagePullPolicy. Write {', '.join(PULL_POLICIES)}."
            )
        for name in ("cpu_request", "cpu_limit", "memory_request", "memory_limit"):
            try:
                self.quantity(name)
            except QuantityError as error:
                raise DefaultsError(f"{name.replace('_', '-')}: {error}") from None
        for name, _ in self.environment:
            if not name.startswith("PODLANE_") or name in _GIVEN:
                raise DefaultsError(f"{name} cannot be set. Name a setting of the sidecar, as PODLANE_MAX_CONNECTIONS.")
        for name, usual in _PORTS.items():
            port = self.settings[name]
            if not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise DefaultsError(f"{name} cannot be {port}. Choose a port from 1 to 65535, as {usual}.")
        if len(set(self.ports)) < len(_PORTS):
            raise DefaultsError(f"{', '.join(_PORTS)}: Two are the same port, but each needs its own. Choose others.")

    @property
    def settings(self) -> dict[str, str]:
        """The sidecar's environment, but for what depends on the Pod."""
        return {**_USUAL, **dict(self.environment)}

    @property
    def admin_port(self) -> int:
        """Where the sidecar's admin server listens."""
        return int(self.settings["PODLANE_ADMIN_PORT"])

    @property
    def ports(self) -> tuple[int, ...]:
        """All on which the sidecar listens."""
        return tuple(int(self.settings[name]) for name in _PORTS)

    def quantity(self, name: str) -> Quantity | None:
        """One of the four resources, read."""
        text = getattr(self, name)
        return None if text is None else Quantity.parse(text)
