"""The sidecar's settings: from the command line, else from ``PODLANE_*`` environment variables, else the default."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from datapath.routing.table import SILENT_PORTS
from traffic_policy.errors import ConfigError
from traffic_policy.fields import Network, parse_networks
from traffic_policy.ports import PortRange
from traffic_policy.settings import (
    ADMIN_ADDRESS,
    ADMIN_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    AccessLogMode,
    Datapath,
    IptablesSetting,
    LogFormat,
    LogLevel,
    Mesh,
    OnFailure,
    variable,
)
from traffic_policy.units import Duration, Rate

MOST_WORKERS: Final = 64
"""Far more than one network interface can use."""


def _port_list(value: object) -> tuple[int, ...]:
    """Parse ``25,3306`` or a list; an empty text is an empty list."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{value!r} is not a list of ports. Write numbers with commas, as in 25,3306.")
    ports = []
    for part in (str(p).strip() for p in parts):
        if not part and len(parts) == 1:
            continue
        if not part.isdecimal() or not 1 <= int(part) <= 65535:
            raise ValueError(f"{part!r} is not a port. Write numbers from 1 to 65535 with commas, as in 25,3306.")
        ports.append(int(part))
    return tuple(ports)


def _some_time(value: object) -> Duration:
    """A duration above zero: a timeout of zero would end every connection at once."""
    duration = Duration.parse(value)
    if not duration.nanoseconds:
        raise ValueError("Zero would end every connection at once. Write how long to wait, as in 10s.")
    return duration


def _worker_count(value: object) -> int | Literal["auto"]:
    """Parse ``4`` or ``auto``."""
    text = str(value).strip()
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(
            f"{value!r} is not a number of workers. Write one from 1 to {MOST_WORKERS}, or auto for one per CPU."
        )
    return int(text)


DurationSetting = Annotated[Duration, PlainValidator(Duration.parse), PlainSerializer(str)]
WaitSetting = Annotated[Duration, PlainValidator(_some_time), PlainSerializer(str)]
RateSetting = Annotated[Rate, PlainValidator(Rate.parse), PlainSerializer(str)]
OptionalRateSetting = Annotated[Rate | None, PlainValidator(lambda v: None if v is None else Rate.parse(v))]
PortsSetting = Annotated[tuple[int, ...], PlainValidator(_port_list)]
PortRangesSetting = Annotated[
    tuple[PortRange, ...], PlainValidator(lambda v: v if isinstance(v, tuple) else PortRange.parse_list(v))
]
NetworksSetting = Annotated[
    tuple[Network, ...], PlainValidator(lambda v: v if isinstance(v, tuple) else parse_networks(v))
]
PortSetting = Annotated[int, Field(ge=1, le=65535)]
WorkersSetting = Annotated[int | Literal["auto"], PlainValidator(_worker_count)]


class SidecarSettings(BaseModel):
    """All settings; their environment variables are those of :func:`traffic_policy.settings.variable`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Path | None = Field(None, description="policy file (YAML or JSON); this or annotations")
    annotations: Path | None = Field(
        None, description="file of the Pod's annotations (of a downward API volume), which have policy and settings"
    )
    shared_policy: Path | None = Field(
        None, description="folder with the policy that the Pod's annotations name, in NAME/policy.yaml"
    )
    watch: bool = Field(True, description="put a change of these files in force at once; else only at SIGHUP")
    total: OptionalRateSetting = Field(None, description="replaces the policy's total")
    interface: str | None = Field(None, description="interface to shape; the default route's when left out")
    replace: bool = Field(False, description="replace a root qdisc that somebody else installed")
    iptables: IptablesSetting = Field(
        IptablesSetting.AUTO,
        description="how rules are installed: by iptables-restore, by python-iptables, or what is there",
    )
    datapath: Datapath = Field(
        Datapath.RELAY, description="how a connection's first bytes are seen: relay it, look and step aside, or by eBPF"
    )
    mesh: Mesh = Field(
        Mesh.AUTO, description="the service mesh in this Pod, behind whose proxy to sit; auto: told by the rules here"
    )
    on_failure: OnFailure = Field(
        OnFailure.OPEN,
        description="new connections that the proxy would relay, while it is gone: they go direct, or are refused",
    )
    outbound_port: PortSetting = Field(
        OUTBOUND_PORT, description="where captured connections arrive; stepping aside, the number of the queue"
    )
    inbound_port: PortSetting = Field(INBOUND_PORT, description="where captured connections of clients arrive")
    silent_ports: PortsSetting = Field(
        SILENT_PORTS, description="ports where the server speaks first: captured only by matches that name them"
    )
    exclude_outbound_ports: PortRangesSetting = Field(
        (), description="ports left alone (TCP and UDP): not captured, in the default class"
    )
    exclude_outbound_cidrs: NetworksSetting = Field(
        (), description="networks left alone: not captured, in the default class"
    )
    exclude_inbound_ports: PortRangesSetting = Field(
        (), description="ports of this Pod left alone: clients' connections not captured, answers in the default class"
    )
    exclude_inbound_cidrs: NetworksSetting = Field(
        (), description="clients' networks left alone: not captured, answers in the default class"
    )
    detection_timeout: DurationSetting = Field(
        Duration.from_seconds(1), description="how long a connection may keep silent before the port decides its class"
    )
    connect_timeout: WaitSetting = Field(
        Duration.from_seconds(10), description="how long an upstream may take to answer a connection attempt"
    )
    idle_timeout: WaitSetting = Field(
        Duration.from_seconds(3600), description="how long a connection may carry nothing before it is closed"
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        10_000, description="connections relayed at once; more wait in the kernel's backlog"
    )
    workers: WorkersSetting = Field(
        1, description="processes that relay, each on a core of its own; auto: as many as CPUs may be used, at most 8"
    )
    grace: DurationSetting = Field(
        Duration.from_seconds(25),
        description="how long running connections may go on after SIGTERM (Kubernetes kills after 30 s)",
    )
    admin_address: str = Field(ADMIN_ADDRESS, description="address of the admin server")
    admin_port: Annotated[int, Field(ge=0, le=65535)] = Field(ADMIN_PORT, description="its port; 0: no admin server")
    access_log: AccessLogMode = Field(
        AccessLogMode.OFF, description="off, or connections: a line of JSON for each connection that has ended"
    )
    access_log_file: Path | None = Field(None, description="file it is appended to; standard output when left out")
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = {
            "--outbound-port": self.outbound_port,
            "--inbound-port": self.inbound_port,
            "--admin-port": self.admin_port,
        }
        for (one, port), (other, same) in combinations(ports.items(), 2):
            if port == same:
                raise ValueError(f"{one} and {other}: Both are {port}, but each needs a port of its own. Change one.")
        return self

    @model_validator(mode="after")
    def _workers_have_work(self) -> Self:
        if self.workers == "auto" or self.workers == 1:
            return self
        if self.datapath is not Datapath.RELAY:
            raise ValueError(
                f"--workers: With --datapath {self.datapath} connections are not relayed, and one process is enough; "
                f"{self.workers} workers would have nothing to do. Leave --workers out, or use --datapath relay."
            )
        if self.workers > self.max_connections:
            raise ValueError(
                f"--workers and --max-connections: {self.workers} workers share {self.max_connections} connections, "
                "but each needs at least one. Change either."
            )
        return self

    @model_validator(mode="after")
    def _access_log_is_on(self) -> Self:
        if self.access_log_file is not None and self.access_log is AccessLogMode.OFF:
            raise ValueError(
                "--access-log-file: There is no access log to write. Add --access-log connections, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.policy is None and self.annotations is None:
            raise ValueError(
                "--policy (or PODLANE_POLICY) is missing. "
                "Name the policy file, or the file of a Pod's annotations by --annotations."
            )
        if self.policy is not None and self.annotations is not None:
            raise ValueError(
                f"--policy and --annotations: There are two policies, {self.policy} and that of the annotations in "
                f"{self.annotations}. Give one (PODLANE_POLICY and PODLANE_ANNOTATIONS count, too)."
            )
        if self.shared_policy is not None and self.annotations is None:
            raise ValueError(
                "--shared-policy: It belongs to a Pod's annotations. Give --annotations, or --policy alone."
            )
        if self.total is not None and self.annotations is not None:
            raise ValueError(
                "--total and --annotations: The annotation podlane.io/egress-bandwidth is the total. "
                "Remove --total (and PODLANE_TOTAL)."
            )
        return self


def load_settings(overrides: dict[str, Any]) -> SidecarSettings:
    """Settings with the command line's values; raises :class:`ConfigError` naming the setting and the remedy."""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return SidecarSettings.model_validate(_environment() | given)
    except ValidationError as error:
        lines = [_explain(e, given) for e in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from None


def _environment() -> dict[str, str]:
    """The values of environment variables, by the names of settings."""
    said = {key.upper(): value for key, value in os.environ.items()}
    names = {name: variable(name) for name in SidecarSettings.model_fields}
    return {name: said[variable] for name, variable in names.items() if variable in said}


def _explain(error: Any, given: dict[str, Any]) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])  # of several settings together, which the message names
    key = str(error["loc"][0])
    where = f"--{key.replace('_', '-')}" if key in given else variable(key)
    # Imported here only, as a start with valid settings is faster without.
    from traffic_policy.settings import service_link

    if link := service_link(where, error["input"]):
        return f"{where}: {link}"
    reason = error["ctx"]["error"] if error["type"] == "value_error" else f"{error['msg']} (got {error['input']!r})."
    return f"{where}: {reason}"
