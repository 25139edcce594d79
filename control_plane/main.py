"""Builds and runs a control plane from its settings."""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Final, TextIO

import uvicorn

from control_plane.access.gate import Gate, Users
from control_plane.access.provider import IdentityProvider, ProviderSettings
from control_plane.access.refusals import RefusalRecorder
from control_plane.access.sessions import BrowserSessions
from control_plane.alerts.desk import desk_of
from control_plane.alerts.driver import AlertDriver
from control_plane.alerts.reach import Reach
from control_plane.alerts.secrets import ChannelSecrets
from control_plane.bootstrap import another_token, first_token
from control_plane.budgets.meter import VolumeMeter
from control_plane.certificates.authority import LIFETIME, utc
from control_plane.certificates.root_files import LoadedAuthority, RootFiles, RootFolder, RootStore
from control_plane.domain.access import TokenText
from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.invitation import Invitation
from control_plane.fleet.port import AgentsPort
from control_plane.fleet.rollout_driver import PrometheusGates, RolloutDriver
from control_plane.http.app import create_app
from control_plane.live.websocket import WEBSOCKETS
from control_plane.read_models.read_models import ReadModels
from control_plane.service import ControlPlane
from control_plane.settings import ControlPlaneSettings
from control_plane.store.backup import backup_lines, restore
from control_plane.store.event_store import EventStore, open_store
from control_plane.tracing import ChangeTraces, NoTraces
from daemon.errors import CertificateError, PortInUseError
from daemon.log import Logger
from traffic_policy.errors import ConfigError

if TYPE_CHECKING:
    from control_plane.outbox.kafka import KafkaTopic
    from control_plane.outbox.link import KafkaLink

_BACKLOG: Final = 1024
_DRAIN: Final = 10
"""Seconds that requests may take when the process is to end."""

_TURN: Final = 0.0005
"""Seconds after which a thread that computes gives way to one that waits. With thousands of agents the gateway's always
computes, and a request gives way to it a dozen times: by Python's 5 ms each answer would take some 100 ms."""

log = Logger()


def serve(
    settings: ControlPlaneSettings,
    *,
    on_first_token: Callable[[TokenText], None],
    on_ready: Callable[[str, int, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    ``on_first_token`` is called once in the life of a database, ``on_ready`` with the URL, its port and that
    of agents. Raises
    :class:`ConfigError`, :class:`~daemon.errors.PortInUseError`, :class:`~daemon.errors.CertificateError`,
    :class:`~control_plane.store.errors.StoreError`.
    """
    if settings.certificate and settings.key:
        _check_certificate(settings)
    topic = _topic(settings)
    reach = Reach.parse(settings.alerts_may_reach)
    sys.setswitchinterval(_TURN)
    with (
        _listen("", settings.address, settings.port) as listener,
        _listen("agents-", settings.agents_address, settings.agents_port) as agents_listener,
    ):
        traces = _traces(settings)
        store = open_store(settings.database_url)
        agents: AgentsPort | None = None
        rollouts: RolloutDriver | None = None
        alerts: AlertDriver | None = None
        link: KafkaLink | None = None
        meter: VolumeMeter | None = None
        try:
            plane = ControlPlane(store)
            token = first_token(plane)
            if token is not None:
                on_first_token(token)
            authority = LoadedAuthority(_roots(settings), utc(time.time()))
            fleet = FleetStatus()
            plane.traces = fleet.traces = traces
            place = _agents_place(settings, agents_listener.getsockname()[1])
            agents = AgentsPort(
                plane,
                fleet,
                authority,
                agents_listener.dup(),
                _names_of_this_machine(settings),
                settings.reviewers or settings.state / "reviewers",
                time.time,
            )
            agents.start()
            meter = VolumeMeter(store.volumes, fleet)
            meter.start()
            prometheus = PrometheusGates(settings.prometheus)
            rollouts = RolloutDriver(plane, fleet, prometheus)
            rollouts.start()
            desk = desk_of(plane, reach, ChannelSecrets(settings.channel_secrets or settings.state / "channel-secrets"))
            alerts = AlertDriver(plane, fleet, desk.view, desk.teller)
            alerts.start()
            if topic is not None:
                from control_plane.outbox.link import KafkaLink

                link = KafkaLink(plane, topic)
                link.start()
            port = listener.getsockname()[1]
            url = _url(settings, port)
            users = _users(settings, store, url)
            gate = Gate(
                plane,
                RefusalRecorder(plane),
                settings.rate_limit,
                users=users,
                secure=(settings.public_url or url).startswith("https:"),
            )
            dependencies = [
                *([link.kafka] if link else []),
                *([users.provider.dependency] if users else []),
                *([prometheus.dependency] if settings.prometheus else []),
            ]
            config = uvicorn.Config(
                create_app(
                    plane,
                    fleet,
                    Invitation(place, authority, time.time),
                    dependencies,
                    gate,
                    desk=desk,
                    connections=lambda: agents.connections if agents is not None else 0,
                    prometheus=settings.prometheus,
                ),
                log_config=None,
                access_log=False,
                lifespan="off",
                **WEBSOCKETS,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_DRAIN,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.key,
            )
            server = uvicorn.Server(config)

            def end(*_: object) -> None:
                server.should_exit = True

            # uvicorn has handlers of its own while it runs, and afterwards raises what it got for those before.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)
            log.info("the control plane listens", url=url, agents=place)
            on_ready(url, port, agents_listener.getsockname()[1])
            with gate.recorder.running():
                server.run(sockets=[listener])
        finally:
            if alerts is not None:
                alerts.close()
            if rollouts is not None:
                rollouts.close()
            if link is not None:
                link.stop()
            if agents is not None:
                agents.close()
            if meter is not None:
                meter.close()
            store.close()
            traces.close()
    log.info("ended")


def _traces(settings: ControlPlaneSettings) -> ChangeTraces:
    """Raises :class:`ConfigError`."""
    if not settings.otlp:
        return NoTraces()
    try:
        from control_plane.otlp_traces import OtlpTraces
    except ImportError:
        raise ConfigError("--otlp needs more packages: pip install 'podlane[control-plane,tracing]'.") from None
    return OtlpTraces(settings.otlp)


def _topic(settings: ControlPlaneSettings) -> KafkaTopic | None:
    """Whose library is 8 MiB of memory: for those alone who want it."""
    if not settings.kafka:
        return None
    from control_plane.outbox.kafka import KafkaTopic, read_properties

    extra = read_properties(settings.kafka_config) if settings.kafka_config else {}
    topic = KafkaTopic(settings.kafka, settings.kafka_topic, extra)
    topic.check()
    return topic


def issue_token(settings: ControlPlaneSettings) -> TokenText:
    """A new token of an administrator, from the database itself. Raises what :func:`serve` does."""
    store = open_store(settings.database_url)
    try:
        return another_token(ControlPlane(store))
    finally:
        store.close()


def rebuild(settings: ControlPlaneSettings, progress: Callable[[str, int], None]) -> None:
    """Make the tables that queries read again from the events. Raises what :func:`serve` does."""
    with closing(open_store(settings.database_url)) as store:
        ReadModels(store).rebuild_all(progress)


def write_backup(settings: ControlPlaneSettings, out: TextIO) -> None:
    """Write a backup. Raises :class:`~control_plane.store.errors.ChainError`, and what :func:`serve` does."""
    with closing(open_store(settings.database_url)) as store:
        out.writelines(f"{line}\n" for line in backup_lines(store, int(time.time() * 1000)))


def restore_backup(settings: ControlPlaneSettings, lines: Iterable[str]) -> dict[str, int]:
    """Fill an empty database; the number of events of each tenant.

    Raises :class:`~control_plane.store.errors.BackupError`, and what :func:`write_backup` does.
    """
    with closing(open_store(settings.database_url)) as store:
        return {tenant: head.position for tenant, head in restore(store, lines).items()}


def _url(settings: ControlPlaneSettings, port: int) -> str:
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    return f"{'https' if settings.certificate else 'http'}://{host}:{port}"


def _users(settings: ControlPlaneSettings, store: EventStore, url: str) -> Users | None:
    """Raises :class:`ConfigError`."""
    if not settings.oidc_issuer:
        return None
    secret = ""
    if (path := settings.oidc_client_secret_file) is not None:
        try:
            secret = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}. Name the file by --oidc-client-secret-file.") from None
    provider = IdentityProvider(
        ProviderSettings(
            settings.oidc_issuer,
            settings.oidc_client_id,
            settings.oidc_audience or settings.oidc_client_id,
            secret,
            settings.oidc_groups_claim,
        )
    )
    sessions = BrowserSessions(store.sessions, provider, time.time)
    return Users(provider, sessions, (settings.public_url or url).rstrip("/"))


def _check_certificate(settings: ControlPlaneSettings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(str(settings.certificate), str(settings.key))
    except OSError as error:
        raise CertificateError(
            f"{settings.certificate} and {settings.key} cannot be used: {error}. Name a certificate and its key."
        ) from None


def rotate_root(settings: ControlPlaneSettings) -> datetime:
    """Make the next root. From when on it signs. Raises :class:`ConfigError`, :class:`CertificateError`."""
    roots = _roots(settings)
    if isinstance(roots, RootFiles):
        raise ConfigError(
            "The roots are those of --ca-certificate: add the next one's certificate there, after 24 h change "
            "--ca-key to its key, and after another 24 h remove the old certificate."
        )
    now = utc(time.time())
    roots.load(now)
    roots.rotate(now)
    return now + LIFETIME


def _roots(settings: ControlPlaneSettings) -> RootStore:
    if settings.ca_certificate and settings.ca_key:
        return RootFiles(settings.ca_certificate, settings.ca_key, settings.trust_domain)
    return RootFolder(settings.state / "ca", settings.trust_domain)


def _agents_place(settings: ControlPlaneSettings, port: int) -> str:
    """HOST:PORT to tell agents; without a host where only who has reached us knows it."""
    host = settings.agents_names[0] if settings.agents_names else settings.agents_address
    if ipaddress.ip_address(settings.agents_address).is_unspecified and not settings.agents_names:
        host = ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _names_of_this_machine(settings: ControlPlaneSettings) -> list[str]:
    """What agents may have dialled."""
    own = [settings.agents_address] if not ipaddress.ip_address(settings.agents_address).is_unspecified else []
    host = socket.gethostname()
    return [*settings.agents_names, *own, "localhost", "127.0.0.1", "::1", *([host] if host.isascii() else [])]


def _listen(option: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{host}:{port} is taken. Choose another port by --{option}port.") from None
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --{option}address."
        ) from None
    # Accepted connections have it from here. asyncio sets it only where it knows that a socket is TCP's, which it does
    # not of one made so; without it each answer, which is written in two parts, waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
