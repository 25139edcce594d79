"""The agent's settings: from the command line, else from ``PODLANE_AGENT_*`` variables, else the default."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from daemon.settings_error import settings_error
from node_agent.fleet.fleet_settings import FleetSettings, parse_addresses
from node_agent.fleet.node_labels import parse_node_labels
from traffic_policy.errors import ConfigError
from traffic_policy.pod.mode import Mode
from traffic_policy.settings import ADMIN_ADDRESS, AGENT_PORT, AgentDatapath, Enforce, LogFormat, LogLevel, OnFailure

ENVIRONMENT: Final = "PODLANE_AGENT_"


class AgentSettings(BaseSettings):
    """All settings; the environment variable of a field is ``PODLANE_AGENT_`` and its name in capitals.

    ``podlane agent --help`` describes them.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid", frozen=True)

    workloads: Path | None = None
    node: str | None = None
    mode: Mode = Mode.NONE
    datapath: AgentDatapath = AgentDatapath.AUTO
    enforce: Enforce = Enforce.POD
    kubeconfig: Path | None = None
    context: str | None = None
    state: Path = Path("/run/podlane/agent")
    cni_conf_dir: Path | None = None
    cni_bin_dir: Path = Path("/opt/cni/bin")
    cni_on_failure: OnFailure = OnFailure.OPEN
    cni_exempt: Annotated[str, Field(pattern=r"^[a-z0-9,-]*$")] = ""
    control_plane: str = ""
    join_token: Annotated[str, Field(repr=False)] = ""
    service_account_token: Path | None = None
    control_plane_ca: Path | None = None
    cluster: Annotated[str, Field(pattern=r"^([a-z0-9-]+/)?[a-z0-9-]*$")] = ""
    node_labels: str = ""
    name: Annotated[str, Field(pattern=r"^[a-z0-9.-]*$")] = ""
    data: Path = Path("/var/lib/podlane/agent")
    daemon_set: Annotated[str, Field(pattern=r"^([a-z0-9-]+/[a-z0-9.-]+)?$")] = ""
    admin_address: str = ADMIN_ADDRESS
    admin_port: Annotated[int, Field(ge=0, le=65535)] = AGENT_PORT
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO

    @property
    def fleet(self) -> FleetSettings | None:
        """How to reach the control plane; None: there is none. Raises :class:`ConfigError`."""
        if not self.control_plane:
            return None
        addresses = parse_addresses(self.control_plane)
        if not addresses:
            raise ConfigError("--control-plane: Nothing is named. Write HOST:PORT, as cp.example.com:15181.")
        named = self.name or self.node or ("" if self.service_account_token else socket.gethostname().lower())
        return FleetSettings(
            addresses,
            self.data,
            self.join_token,
            self.service_account_token,
            self.control_plane_ca,
            self.cluster,
            named,
            parse_node_labels(self.node_labels),
        )

    @property
    def exempt_namespaces(self) -> tuple[str, ...]:
        """Those of :attr:`cni_exempt`."""
        return tuple(filter(None, self.cni_exempt.split(",")))

    @property
    def cni_socket(self) -> Path:
        """Where the CNI plugin asks."""
        return self.state / "cni.sock"


def load_settings(overrides: dict[str, Any], *, needs_source: bool = True) -> AgentSettings:
    """Settings with the command line's values; raises :class:`ConfigError` naming the setting and the remedy.

    ``needs_source``: something has to say which workloads there are.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        settings = AgentSettings(**given)
    except ValidationError as error:
        raise settings_error(error, given, ENVIRONMENT) from None
    if needs_source and settings.workloads is None and not settings.node:
        raise ConfigError(
            "Nothing says which workloads there are. Name this node by --node, or a file of workloads by --workloads."
        )
    if settings.workloads is not None and settings.node:
        raise ConfigError("Workloads are Pods of a node, or those in a file. Take --node away, or --workloads.")
    if settings.mode is Mode.SIDECAR:
        raise ConfigError("An agent makes no sidecars. Write --mode agent or --mode none.")
    if settings.fleet is None and (settings.join_token or settings.service_account_token):
        raise ConfigError("The token is for a control plane. Name it by --control-plane, or take the token away.")
    if settings.fleet is None and settings.node_labels:
        raise ConfigError("Labels of the node are for a control plane. Name it by --control-plane.")
    if settings.workloads is not None and settings.cni_conf_dir is not None:
        raise ConfigError("CNI plugins are for Pods. Take --cni-conf-dir away, or name a node instead of --workloads.")
    return settings
