"""The operator's settings: from the command line, else from ``PODLANE_OPERATOR_*`` variables, else the default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from daemon.settings_error import settings_error
from traffic_policy.errors import ConfigError
from traffic_policy.settings import ADMIN_ADDRESS, LogFormat, LogLevel

ENVIRONMENT: Final = "PODLANE_OPERATOR_"
OPERATOR_PORT: Final = 15111


class OperatorSettings(BaseSettings):
    """All settings; ``podlane operator --help`` describes them."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid", frozen=True)

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str = ""
    lease: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] = "podlane-operator"
    control_plane: str = ""
    token_file: Path | None = None
    control_plane_ca: Path | None = None
    cluster: str = ""
    admin_address: str = ADMIN_ADDRESS
    admin_port: Annotated[int, Field(ge=0, le=65535)] = OPERATOR_PORT
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO


def load_settings(overrides: dict[str, Any]) -> OperatorSettings:
    """Settings with the command line's values; raises :class:`ConfigError` naming the setting and the remedy."""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        settings = OperatorSettings(**given)
    except ValidationError as error:
        raise settings_error(error, given, ENVIRONMENT) from None
    if settings.control_plane and not (settings.token_file and settings.cluster):
        raise ConfigError(
            "A control plane is asked with a token, about a cluster. Name them by --token-file and --cluster."
        )
    return settings
