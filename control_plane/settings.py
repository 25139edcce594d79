"""The control plane's settings: from the command line, else from ``PODLANE_CONTROL_PLANE_*`` variables, else the
default."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from daemon.settings_error import settings_error
from traffic_policy.errors import ConfigError
from traffic_policy.settings import LogFormat, LogLevel

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:.]{2,45}")
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")
"""https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#21-trust-domain"""
ENVIRONMENT: Final = "PODLANE_CONTROL_PLANE_"


class ControlPlaneSettings(BaseSettings):
    """All settings; the environment variable of a field is ``PODLANE_CONTROL_PLANE_`` and its name in capitals.

    ``podlane control-plane --help`` describes them.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid", frozen=True)

    state: Path = Path("/var/lib/podlane/control-plane")
    database: str = ""
    kafka: str = ""
    kafka_topic: str = "podlane.events"
    kafka_config: Path | None = None
    address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 15180
    certificate: Path | None = None
    key: Path | None = None
    agents_address: str = "127.0.0.1"
    agents_port: Annotated[int, Field(ge=0, le=65535)] = 15181
    agents_name: str = ""
    trust_domain: str = "podlane"
    ca_certificate: Path | None = None
    ca_key: Path | None = None
    reviewers: Path | None = None
    prometheus: str = ""
    channel_secrets: Path | None = None
    alerts_may_reach: str = ""
    otlp: Annotated[str, Field(pattern=r"^(https?://[^/\s]+/?)?$")] = ""
    public_url: str = ""
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret_file: Path | None = None
    oidc_audience: str = ""
    oidc_groups_claim: str = "groups"
    rate_limit: Annotated[int, Field(ge=0)] = 100
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO

    @property
    def database_url(self) -> str:
        """That of the store: a file in the state folder, unless another is named."""
        return self.database or f"sqlite:{self.state / 'events.db'}"

    @property
    def agents_names(self) -> list[str]:
        """Names and addresses under which agents reach the agents' port, the one to tell them first."""
        return [name.strip() for name in self.agents_name.split(",") if name.strip()]


def load_settings(overrides: dict[str, Any]) -> ControlPlaneSettings:
    """Settings with the command line's values; raises :class:`ConfigError` naming the setting and the remedy."""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        settings = ControlPlaneSettings(**given)
    except ValidationError as error:
        raise settings_error(error, given, ENVIRONMENT) from None
    try:
        address = ipaddress.ip_address(settings.address)
    except ValueError:
        raise ConfigError(f"--address {settings.address} is not an IP address. Write one, as 127.0.0.1.") from None
    try:
        ipaddress.ip_address(settings.agents_address)
    except ValueError:
        raise ConfigError(
            f"--agents-address {settings.agents_address} is not an IP address. Write one, as 0.0.0.0."
        ) from None
    for name in settings.agents_names:
        if not _HOST.fullmatch(name):
            raise ConfigError(f"--agents-name: {name} is no name of a host. Write one, as fleet.example.com.")
    if not _TRUST_DOMAIN.fullmatch(settings.trust_domain):
        raise ConfigError(
            f"--trust-domain {settings.trust_domain} is none of SPIFFE's. Write lower-case letters, digits, dots and "
            "hyphens, as podlane.example.com."
        )
    if (settings.ca_certificate is None) != (settings.ca_key is None):
        raise ConfigError("A CA's certificate and its key belong together. Give --ca-certificate and --ca-key.")
    if settings.kafka_config is not None and not settings.kafka:
        raise ConfigError("--kafka-config is for Kafka. Give --kafka HOST:PORT, too.")
    if (settings.certificate is None) != (settings.key is None):
        raise ConfigError("A certificate and its key belong together. Give --certificate and --key.")
    _check_oidc(settings)
    if settings.certificate is None and not address.is_loopback:
        raise ConfigError(
            f"Tokens would cross the network unencrypted to {address}. Give --certificate and --key, or listen on "
            "127.0.0.1."
        )
    return settings


def _check_oidc(settings: ControlPlaneSettings) -> None:
    url = urlsplit(settings.public_url)
    if settings.public_url and (url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/")):
        raise ConfigError("--public-url is no URL of ours. Write it as https://podlane.example.com")
    if not settings.oidc_issuer:
        if settings.oidc_client_id or settings.oidc_audience or settings.oidc_client_secret_file:
            raise ConfigError("There are settings for an identity provider, and no provider. Name it by --oidc-issuer.")
        return
    issuer = urlsplit(settings.oidc_issuer)
    if issuer.scheme != "https" and not (issuer.scheme == "http" and _is_loopback(issuer.hostname or "")):
        raise ConfigError("--oidc-issuer is no https:// URL, as in https://login.example.com/realms/shop. Correct it.")
    if not settings.oidc_client_id:
        raise ConfigError("Who are we to the identity provider? Name our client by --oidc-client-id.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
