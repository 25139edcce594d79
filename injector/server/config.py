"""The injector's settings: from the command line, else from ``PODLANE_INJECTOR_*`` variables, else the default."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from daemon.settings_error import settings_error
from injector.errors import DefaultsError
from injector.pod.defaults import InjectionDefaults, NetRaw
from injector.server.tls import TlsVersion
from traffic_policy.settings import LogFormat, LogLevel
from traffic_policy.units import Duration

ENVIRONMENT: Final = "PODLANE_INJECTOR_"
_DEFAULTS: Final = InjectionDefaults()
_BEFORE_A_NAME: Final = re.compile(r",(?=\s*\w+=)")
_NAME: Final = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_REVISION: Final = re.compile(r"([a-z]([-a-z0-9]{0,61}[a-z0-9])?)?")
"""A label's value that can be a part of names (RFC 1035), or nothing."""


def _listed(value: object) -> tuple[str, ...]:
    """Parse ``a,b`` or a list; an empty text is an empty list."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{value!r} is not a list. Write names with commas.")
    return tuple(text for part in parts if (text := str(part).strip()))


def _variables(value: object) -> tuple[tuple[str, str], ...]:
    """Parse ``A=1,B=2,3``, or pairs. A comma ends a value only before the next name: lists of ports have commas,
    too."""
    if isinstance(value, str):
        return tuple(_variable(part) for part in _BEFORE_A_NAME.split(value.strip(", ")) if part.strip())
    if not isinstance(value, tuple):
        raise ValueError(f"{value!r} is not a text. Write NAME=VALUE with commas.")
    return value


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} has no value. Write NAME=VALUE, as in PODLANE_GRACE=20s.")
    return name.strip(), value.strip()


def _some_time(value: object) -> Duration:
    duration = Duration.parse(value)
    if not duration.nanoseconds:
        raise ValueError("Zero leaves no time. Write how long, as in 10s.")
    return duration


DurationSetting = Annotated[Duration, NoDecode, PlainValidator(Duration.parse), PlainSerializer(str)]
TimeSetting = Annotated[Duration, NoDecode, PlainValidator(_some_time), PlainSerializer(str)]
NamesSetting = Annotated[tuple[str, ...], NoDecode, PlainValidator(_listed)]
VariablesSetting = Annotated[tuple[tuple[str, str], ...], NoDecode, PlainValidator(_variables)]
PortSetting = Annotated[int, Field(ge=0, le=65535)]


class InjectorSettings(BaseSettings):
    """All settings; the environment variable of a field is ``PODLANE_INJECTOR_`` and its name in capitals.

    ``podlane injector --help`` describes them.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid", frozen=True)

    address: str = ""
    port: PortSetting = 8443
    metrics_port: PortSetting = 8080
    tls_version: TlsVersion = TlsVersion.TLS_1_3
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    client_names: NamesSetting = ()
    secret: str = ""
    service: str = "podlane-injector"
    names: NamesSetting = ()
    mutating_webhook: str = ""
    validating_webhook: str = ""
    ca_lifetime: TimeSetting = Duration.from_seconds(365 * 86400)
    certificate_lifetime: TimeSetting = Duration.from_seconds(30 * 86400)
    ca_overlap: TimeSetting = Duration.from_seconds(600)
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str = ""
    deadline: TimeSetting = Duration.from_seconds(9)
    shared_policy_ttl: DurationSetting = Duration.from_seconds(10)
    linger: DurationSetting = Duration.from_seconds(5)
    grace: DurationSetting = Duration.from_seconds(15)
    image: str = ""
    image_pull_policy: str | None = None
    image_pull_secrets: NamesSetting = ()
    cpu_request: str | None = _DEFAULTS.cpu_request
    cpu_limit: str | None = _DEFAULTS.cpu_limit
    memory_request: str | None = _DEFAULTS.memory_request
    memory_limit: str | None = _DEFAULTS.memory_limit
    bpf: bool = True
    trusted_images: NamesSetting = ()
    net_raw: NetRaw = _DEFAULTS.net_raw
    revision: str = ""
    sidecar_environment: VariablesSetting = ()
    log_format: LogFormat = LogFormat.JSON
    log_level: LogLevel = LogLevel.INFO

    @field_validator("names")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _NAME.fullmatch(name) and not _is_address(name):
                raise ValueError(f"{name!r} is no name that a certificate can have. Write a host name or an address.")
        return names

    @field_validator("revision")
    @classmethod
    def _is_label(cls, revision: str) -> str:
        if not _REVISION.fullmatch(revision):
            raise ValueError(f"{revision!r} is no revision. Write a short name as in canary: small letters, digits, -.")
        return revision

    @field_validator("cpu_request", "cpu_limit", "memory_request", "memory_limit", "image_pull_policy")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        return value or None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        files = self.certificate is not None or self.key is not None
        if files and self.secret:
            raise ValueError(
                "Certificates come from files or from a Secret, not both. Leave out --secret, or the files."
            )
        if files and (self.certificate is None or self.key is None):
            raise ValueError("A certificate needs its key. Give both --certificate and --key.")
        if not files and not self.secret:
            raise ValueError(
                "There is no certificate to serve. Name its files with --certificate and --key, or with --secret a "
                "Secret in which the injector keeps certificates of its own."
            )
        if self.client_names and self.client_ca is None:
            raise ValueError("--client-names: nobody is asked for a certificate. Give --client-ca, too.")
        if self.port and self.port == self.metrics_port:
            raise ValueError(f"--port and --metrics-port: both are {self.port}. Change one.")
        if self.certificate_lifetime.seconds + self.ca_overlap.seconds > self.ca_lifetime.seconds / 3:
            # An authority is rotated when a third of its lifetime is left.
            raise ValueError(
                f"--ca-lifetime: {self.ca_lifetime} is too short. Write at least three times what "
                "--certificate-lifetime and --ca-overlap are together."
            )
        try:
            self.defaults()
        except DefaultsError as error:
            raise ValueError(str(error)) from None
        return self

    def defaults(self) -> InjectionDefaults:
        own = {f.name: getattr(self, f.name) for f in fields(InjectionDefaults) if f.name != "environment"}
        return InjectionDefaults(**own, environment=self.sidecar_environment)

    def certificate_names(self, namespace: str) -> tuple[str, ...]:
        """The names by which API servers address the Service, and the configured ones."""
        inside = f"{self.service}.{namespace}"
        of_service = (f"{inside}.svc", f"{inside}.svc.cluster.local", inside, self.service) if self.service else ()
        return tuple(dict.fromkeys((*of_service, *self.names)))


def load_settings(overrides: dict[str, Any]) -> InjectorSettings:
    """Settings with the command line's values; raises :class:`ConfigError` naming the setting and the remedy."""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return InjectorSettings(**given)
    except ValidationError as error:
        raise settings_error(error, given, ENVIRONMENT) from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
