"""The administrator's defaults for injected containers; annotations override them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from injector.errors import DefaultsError
from traffic_policy.pod.quantities import Quantity, QuantityError
from traffic_policy.settings import (
    ADMIN_ADDRESS,
    ADMIN_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    VARIABLE_PREFIX,
    LogFormat,
    variable,
)

_PORTS: Final = {
    variable("admin_port"): str(ADMIN_PORT),
    variable("inbound_port"): str(INBOUND_PORT),
    variable("outbound_port"): str(OUTBOUND_PORT),
}
"""Always set, since the kubelet sets PODLANE_ADMIN_PORT to the address of a Service podlane-admin, and so on
(:func:`traffic_policy.settings.service_link`)."""
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
"""Values of imagePullPolicy (https://kubernetes.io/docs/concepts/containers/images/)."""
_USUAL: Final = {variable("admin_address"): ADMIN_ADDRESS, variable("log_format"): LogFormat.JSON.value, **_PORTS}
"""The sidecar's environment unless the administrator's overrides it."""
_GIVEN: Final = tuple(map(variable, ("policy", "annotations", "shared_policy")))
"""Settings for the source of the policy, which injection determines."""


class NetRaw(StrEnum):
    """What the injector does about NET_RAW."""

    WARN = "warn"
    """Warn of containers that ask for it."""
    DROP = "drop"
    """Take it from containers that do not ask for it, and warn of those that do."""
    REFUSE = "refuse"
    """Refuse Pods in which a container has it, asked for or not."""


@cache
def product_version() -> str:
    """Podlane's version, as installed; ``0`` when run from source."""
    try:
        return version("podlane")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True, slots=True)
class InjectionDefaults:
    """Settings of the injected containers. Raises :class:`DefaultsError` on values that the API server would refuse.

    ``image`` is the sidecar's, ``None`` for the policy or a resource omits it. ``bpf``: sidecars get CAP_BPF if their
    policy needs it. ``trusted_images``: further repositories to which webhooks may rewrite it, and from which Pods may
    choose it. ``net_raw``: what is done about containers with NET_RAW. ``revision``: the name of this installation of
    the injector; empty for the default one. ``environment`` has further ``PODLANE_*`` variables for the sidecar; the
    last of a name counts.
    """

    image: str = ""
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    cpu_request: str | None = "20m"
    cpu_limit: str | None = None
    memory_request: str | None = "80Mi"
    memory_limit: str | None = "256Mi"
    bpf: bool = True
    trusted_images: tuple[str, ...] = ()
    net_raw: NetRaw = NetRaw.WARN
    revision: str = ""
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
            if not name.startswith(VARIABLE_PREFIX) or name in _GIVEN:
                raise DefaultsError(f"{name} cannot be set. Name a setting of the sidecar, as PODLANE_MAX_CONNECTIONS.")
        for name, usual in _PORTS.items():
            port = self.settings[name]
            if not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise DefaultsError(f"{name} cannot be {port}. Choose a port from 1 to 65535, as {usual}.")
        if len(set(self.ports)) < len(_PORTS):
            raise DefaultsError(f"{', '.join(_PORTS)}: Two are the same port, but each needs its own. Choose others.")

    @property
    def settings(self) -> dict[str, str]:
        """The sidecar's environment, without the variables that depend on the Pod."""
        return {**_USUAL, **dict(self.environment)}

    @property
    def admin_port(self) -> int:
        """The port of the sidecar's admin server."""
        return int(self.settings[variable("admin_port")])

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports on which the sidecar listens."""
        return tuple(int(self.settings[name]) for name in _PORTS)

    def quantity(self, name: str) -> Quantity | None:
        """One of the four resources, parsed."""
        text = getattr(self, name)
        return None if text is None else Quantity.parse(text)
