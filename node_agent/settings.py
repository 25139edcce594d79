"""The agent's settings: from the command line, else from ``PODLANE_AGENT_*`` variables, else the default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from daemon.settings_error import settings_error
from traffic_policy.errors import ConfigError
from traffic_policy.pod.mode import Mode
from traffic_policy.settings import ADMIN_ADDRESS, AGENT_PORT, LogFormat, LogLevel, OnFailure

ENVIRONMENT: Final = "PODLANE_AGENT_"


class AgentSettings(BaseSettings):
    """All settings; the environment variable of a field is ``PODLANE_AGENT_`` and its name in capitals.

    ``podlane agent --help`` describes them.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid", frozen=True)

    workloads: Path | None = None
    node: str | None = None
    mode: Mode = Mode.NONE
    kubeconfig: Path | None = None
    context: str | None = None
    state: Path = Path("/run/podlane/agent")
    cni_conf_dir: Path | None = None
    cni_bin_dir: Path = Path("/opt/cni/bin")
    cni_on_failure: OnFailure = OnFailure.OPEN
    cni_exempt: Annotated[str, Field(pattern=r"^[a-z0-9,-]*$")] = ""
    daemon_set: Annotated[str, Field(pattern=r"^([a-z0-9-]+/[a-z0-9.-]+)?$")] = ""
    admin_address: str = ADMIN_ADDRESS
    admin_port: Annotated[int, Field(ge=0, le=65535)] = AGENT_PORT
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO

    @property
    def exempt_namespaces(self) -> tuple[str, ...]:
        """Those of :attr:`cni_exempt`."""
        return tuple(filter(None, self.cni_exempt.split(",")))


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
    if settings.workloads is not None and settings.cni_conf_dir is not None:
        raise ConfigError("CNI plugins are for Pods. Take --cni-conf-dir away, or name a node instead of --workloads.")
    return settings
